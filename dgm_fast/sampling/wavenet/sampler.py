"""The sampler of WaveNet, whose every step uses each weight once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating, check_integers, some_labels
from dgm_fast.distributions import CategoricalWaveform, WaveformOutput
from dgm_fast.distributions.discretized_logistic import lowest_log_scale
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.interrupted import keeping, undisturbed
from dgm_fast.sampling.noise import AnyNoise, SeededNoise, noise_arguments, noise_for
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.pieces import Pace, draw_in_pieces
from dgm_fast.sampling.wavenet import op
from dgm_fast.sampling.wavenet.eager import EagerLoop
from dgm_fast.sampling.wavenet.graphed import GraphedLoop
from dgm_fast.sampling.wavenet.network import WaveNetNetwork
from dgm_fast.sampling.wavenet.packed import pack, pack_condition
from dgm_fast.sampling.wavenet.state import WaveNetState

__all__ = ["WaveNetSampler"]

# As many are drawn in the time of one.
_SIGNALS_OF_A_GPU = 100


class WaveNetSampler:
    r"""Draws signals level by level, in pieces of any length.

    .. math:: x_t \sim p(x_t \mid x_{t-R}, \dots, x_{t-1}, c), \qquad t = 1, 2, \dots

    A window of the receptive field runs every layer at R times to learn about one. Here each layer
    keeps the inputs that it will look back on in a ring, and a sample is one product with every
    weight. The state goes in and comes out; pieces of a stream are the whole, bit for bit. A draw
    goes on in pieces of about a twentieth of a second: Ctrl-C ends it with a `SamplingInterrupted`,
    which has the levels drawn and the state after them, to go on from.

    Arguments:
        network: copied, so that training goes on without the sampler.
        output: the distribution of a level.
        impl: `"auto"`, `"reference"`, a cached loop in plain PyTorch on any device, `"cpp"` on a
            CPU, or `"cuda"`, one launch for all steps of a piece, on an NVIDIA GPU, where `auto`
            takes it of small networks alone.

    Shapes:
        Levels (B, n) int64, noise (B, n, N) as `output.draw_noise` makes it, or the `SeededNoise`
        of it, features (B, F, n) of every sample.

    Precision:
        Computes in float32 for bfloat16 and float16 networks too; float64 runs on the reference.
        Given the same noise, implementations round differently: one that lies within rounding of
        the border between two levels may fall to either side.

    Gradients:
        None.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.
        ImplementationUnavailable: the `impl` asked for cannot run.
        SamplingInterrupted: Ctrl-C in a draw. In `feed` it is a plain KeyboardInterrupt; there
            `state.time` says how many levels were taken.

    References:
        Le Paine, Khorrami, Chang, Zhang, Ramachandran, Hasegawa-Johnson, Huang, "Fast Wavenet
        Generation Algorithm", 2016.

    Example:
        >>> import torch
        >>> from dgm_fast.families import WaveNet, WaveNetConfig
        >>> model = WaveNet(WaveNetConfig(stacks=1, layers=4, channels=8, gate_channels=8)).eval()
        >>> sampler = model.sampler()
        >>> noise = sampler.draw_noise(2, 50)
        >>> whole, _ = sampler.draw(sampler.start(2), noise=noise)
        >>> first, state = sampler.draw(sampler.start(2), noise=noise[:, :20])
        >>> second, state = sampler.draw(state, noise=noise[:, 20:])
        >>> torch.equal(whole, torch.cat([first, second], dim=1)), state.time
        (True, 50)
    """

    def __init__(
        self, network: WaveNetNetwork, output: WaveformOutput, *, impl: str = "auto"
    ) -> None:
        weight = network.last_weight
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.device, self.output = weight.device, output
        self.network = network.to(self.dtype)
        self.impl = op.choose(impl, self.network)
        self._multiply_adds = self.network.multiply_adds
        # Of a signal's rings; counted once, because a stream may be drawn level by level.
        self._floats = sum(network.slots) * padded(network.channels)
        if self.impl == "reference":
            loop = GraphedLoop if self.device.type == "cuda" else EagerLoop
            self._loop = loop(self.network, output)
        else:
            self._packed = pack(self.network)

    @torch.no_grad()
    def start(self, batch: int, context: Tensor | None = None) -> WaveNetState:
        """Return the state before the first sample of a batch, whose labels stay the same."""
        network = self.network
        if batch < 0:
            raise ValueError(f"batch must not be negative; got {batch}")
        context = some_labels(context, network.classes, batch)
        condition = torch.cat([layer.bias for layer in network.layers]).unsqueeze(0)
        if context is not None:
            condition = condition + torch.cat([each.label[context] for each in network.layers], 1)
        if self.impl != "reference":
            condition = pack_condition(condition, len(network.layers))

        rings = torch.zeros(batch, self._floats, dtype=self.dtype, device=self.device)
        recent = torch.full((batch, network.first_kernel), -1, device=self.device)
        return WaveNetState(rings, recent, condition)

    @torch.no_grad()
    def feed(
        self, state: WaveNetState, levels: Tensor, features: Tensor | None = None
    ) -> WaveNetState:
        """Return the state after levels (B, n) that are given: `state`, moved on.

        Levels further back than the receptive field change nothing, and need not be fed.
        """
        self._check_state(state)
        self._check_levels(levels, state.batch)
        features = self._features(features, state.batch, levels.shape[1])
        given = levels.to(self.device)

        def feed(begin: int, end: int) -> None:
            times = slice(begin, end)
            self._go_on(state, [], given[:, times], None, _of(features, times), Filters(), None)

        draw_in_pieces(feed, 0, given.shape[1], self._pace(state.batch), self.device)
        return state

    @torch.no_grad()
    def draw(
        self,
        state: WaveNetState,
        length: int | None = None,
        *,
        features: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        noise: AnyNoise | None = None,
        generator: torch.Generator | None = None,
        parameters_out: Tensor | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[Tensor, WaveNetState]:
        """Return the next levels (B, n) and the state after them: `state`, moved on.

        Arguments:
            state: of `start`, or of the piece before; clone it to keep it.
            length: n, where no noise is given.
            features: local ones of these samples.
            temperature: divides logits and multiplies scales; 0 leaves no chance.
            top_k: of categorical levels, draw among so many likeliest alone.
            top_p: likewise among the likeliest that together have this probability.
            noise: that decides the levels; default drawn, by a GPU's kernel where it uses it.
            generator: to draw it from; default torch's own.
            parameters_out: (B, n, P), filled with what each level was drawn from.
            progress: told the number of levels done and that of all, after each piece: a twentieth
                of all, or of a second where that is less.
        """
        self._check_state(state)
        filters = Filters(temperature, top_k, top_p)
        filters.check(self._is_categorical, type(self.output).__name__)
        if (length is None) == (noise is None):
            raise ValueError(f"length must be given where noise is not; got {length}")
        if length is not None and length < 0:
            raise ValueError(f"length must not be negative; got {length}")
        if noise is None:
            noise = self._seeded(state.batch, length, generator)
        noise = self._noise(noise, state.batch)
        n = noise.shape[1]
        features = self._features(features, state.batch, n)
        shape = state.batch, n, self.output.parameters
        if parameters_out is not None and parameters_out.shape != shape:
            got = tuple(parameters_out.shape)
            raise ValueError(f"parameters_out must have shape (B, n, P) = {shape}; got {got}")

        pieces: list[Tensor] = []

        def drawn() -> Tensor:
            if len(pieces) == 1:
                return pieces[0]
            return torch.cat([state.recent[:, :0], *pieces], dim=1)

        def draw(begin: int, end: int) -> None:
            times = slice(begin, end)
            local = _of(features, times)
            out = None if parameters_out is None else parameters_out[:, times]
            self._go_on(state, pieces, None, noise[:, times], local, filters, out)

        with keeping(drawn, state):
            draw_in_pieces(draw, 0, n, self._pace(state.batch), self.device, progress)
            return drawn(), state

    def draw_noise(
        self, batch: int, length: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the noise (B, n, N) that decides n levels."""
        return self._seeded(batch, length, generator).tensor()

    def _seeded(self, batch: int, length: int, generator: torch.Generator | None) -> SeededNoise:
        draw, shape = self.output.draw_noise, (batch, length, self.output.uniforms)
        return SeededNoise.from_generator(generator, draw, shape, self.device, self.dtype)

    @property
    def _is_categorical(self) -> bool:
        return isinstance(self.output, CategoricalWaveform)

    def _pace(self, batch: int) -> Pace:
        """Return the pieces of a draw: on a GPU a guess that makes few, on a CPU a cautious one."""
        layers = len(self.network.layers)
        if self.impl == "cuda":
            return Pace(4e-6 * layers * max(1, batch / _SIGNALS_OF_A_GPU))
        products = self._multiply_adds * batch / 5e9
        if self.impl == "cpp":
            return Pace(max(products, 5e-6))
        # The loop copies the rings once a piece, and Ctrl-C ends it anywhere.
        return Pace(2e-5 * layers + products, least=8, longer=10.0)

    def _go_on(
        self,
        state: WaveNetState,
        drawn: list[Tensor],
        given: Tensor | None,
        noise: AnyNoise | None,
        features: Tensor | None,
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> None:
        """Move the state on by a piece, and append its levels to those drawn: both or neither."""
        piece = given, noise, features, filters, parameters_out
        if self.impl == "reference":
            with torch.autocast(self.device.type, enabled=False):
                levels, after = self._loop.go_on(state, *piece)
            with undisturbed():
                state.rings, state.recent, state.time = after.rings, after.recent, after.time
                drawn.append(levels)
            return

        arguments = self._arguments(state, *piece)
        # The kernel moves the rings on in place.
        with undisturbed():
            levels, parameters = op.draw[self.impl](*arguments)
            state.time += (noise if given is None else given).shape[1]
            drawn.append(levels)
            if parameters_out is not None:
                parameters_out.copy_(parameters)

    def _arguments(
        self,
        state: WaveNetState,
        given: Tensor | None,
        noise: AnyNoise | None,
        features: Tensor | None,
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> tuple[object, ...]:
        """Return the operator's arguments."""
        output = self.output
        if isinstance(noise, Tensor):
            noise = noise.contiguous()
        return (
            state.rings,
            state.recent,
            self._packed.weights,
            self._packed.sizes,
            self._packed.dilations,
            state.condition,
            None if features is None else features.transpose(1, 2).contiguous(),
            None if given is None else given.contiguous(),
            *noise_arguments(noise),
            state.time,
            output.parameters,
            output.quantizer.levels,
            not self._is_categorical,
            *filters.constants,
            lowest_log_scale(output.quantizer.levels),
            parameters_out is not None,
        )

    def _check_state(self, state: WaveNetState) -> None:
        network = self.network
        halves = network.gate_channels
        if self.impl != "reference":
            halves = padded(halves)
        if (
            state.rings.shape[1:] != (self._floats,)
            or state.recent.shape[1:] != (network.first_kernel,)
            or state.condition.shape[1:] != (len(network.layers) * 2 * halves,)
            or state.rings.dtype != self.dtype
            or state.rings.device != self.device
        ):
            rings = state.rings
            got = f"{tuple(rings.shape)} of {rings.dtype} on {rings.device}"
            raise ValueError(f"state must be of this sampler's; got rings {got}")

    def _check_levels(self, levels: Tensor, batch: int) -> None:
        if levels.dtype != torch.int64:
            raise TypeError(f"levels must be int64; got {levels.dtype}")
        if levels.ndim != 2 or levels.shape[0] != batch:
            got = tuple(levels.shape)
            raise ValueError(f"levels must have shape (B, n) = ({batch}, n); got {got}")
        check_integers("levels", levels, self.output.quantizer.levels - 1)

    def _noise(self, noise: AnyNoise, batch: int) -> AnyNoise:
        noise = noise_for(noise, self.impl, self.device, self.dtype)
        N, got = self.output.uniforms, tuple(noise.shape)
        if len(got) != 3 or (got[0], got[2]) != (batch, N):
            raise ValueError(f"noise must have shape (B, n, N) = ({batch}, n, {N}); got {got}")
        return noise

    def _features(self, features: Tensor | None, batch: int, n: int) -> Tensor | None:
        wanted = self.network.features
        if not wanted or features is None:
            if bool(wanted) != (features is not None):
                must = f"hold {wanted} features of each sample" if wanted else "be None"
                got = "None" if features is None else f"shape {tuple(features.shape)}"
                raise ValueError(f"features must {must}; got {got}")
            return None
        check_floating("features", features)
        if features.shape != (batch, wanted, n):
            expected, got = (batch, wanted, n), tuple(features.shape)
            raise ValueError(f"features must have shape (B, F, n) = {expected}; got {got}")
        return features.to(self.device, self.dtype)


def _of(features: Tensor | None, times: slice) -> Tensor | None:
    return None if features is None else features[..., times]
