"""WaveNet: dilated causal convolutions over the samples of a signal (van den Oord, 2016).

A sample's distribution is given by all samples before it, as far back as the receptive field goes.
Layers double their dilation, 1, 2, 4, ..., so that the field grows as two to the power of their
number; a stack of them is repeated. Each is gated, tanh(a) sigmoid(b), and residual, and the gates'
outputs of all layers together give the sample's parameters. Companding by mu-law leaves 256 levels,
finer for quiet samples. A label shifts every gate alike at all times (global conditioning), local
features, say of a text or a spectrogram, as they change.

Deviations from the paper:
- The layers' outputs z stand one under another for a single matrix product, which is the sum of the
  paper's skip connections, one a layer. The last layer has no residual, which nothing would see.
- Input: one-hot levels, as the authors' figure has them, or the value itself on the levels' scale.
- Outputs: logits of the levels as there, and the mixture of discretized logistics of Parallel
  WaveNet, on either scale. Of 256 levels, its likelihood runs on `ops.logistic_mixture_nll`.
- Residual maps begin smaller the more layers there are, so that depth does not widen their sum, and
  the last convolution begins small, so that the first distributions are broad.
- A learned upsampling of features has kernels of one frame and begins as a repetition.

Sizes: the paper gives dilations up to 512, repeated; public ones of the time have 3 stacks of 10
layers, kernels of 2, 64 to 512 channels, 256 of the skips.

References: van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior,
Kavukcuoglu, "WaveNet: A Generative Model for Raw Audio", 2016; van den Oord et al., "Parallel
WaveNet: Fast High-Fidelity Speech Synthesis", 2017, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dgm_fast._core.checks import check_floating
from dgm_fast.distributions import Quantizer, make_waveform_output
from dgm_fast.families import checks
from dgm_fast.families.autoregressive.wavenet_blocks import (
    OneHotConv,
    ResidualLayer,
    ScalarConv,
    Upsampling,
)
from dgm_fast.families.autoregressive.wavenet_config import WaveNetConfig
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.sampling import SamplingInterrupted, SeededNoise, WaveNetNetwork, WaveNetSampler
from dgm_fast.sampling.choice import impl_of_model
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.interrupted import keeping
from dgm_fast.sampling.noise import AnyNoise, drawn

__all__ = ["WaveNet", "WaveNetConfig"]

_PLACES = 2**15


class WaveNet(Pretrained, nn.Module):
    r"""A density of signals, or of signals given a label or features of theirs.

    .. math:: \log p(x \mid c) = \sum_{t=1}^{T} \log p(x_t \mid x_{t-R}, \dots, x_{t-1}, c)

    for the levels that a signal's samples are rounded to, and a receptive field R.

    Arguments:
        config: hyperparameters.
        impl: implementation of the ops; the state_dict does not depend on it.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, T), a signal of any length in [-1, 1]; context (B,) int64 labels of a
        class-conditional model; features (B, F, frames), frames times hop at least T.

    Units:
        Log-likelihoods are of a whole signal, in nats, of levels: probabilities, not densities. By
        T ln 2 they are bits a sample.

    Precision:
        Likelihoods are at least float32, also under autocast; x keeps float32 whatever the
        parameters are.

    Gradients:
        Of `log_prob` and `loss` for parameters and features; none for x, which is rounded.

    Raises:
        TypeError: x or features are no floating-point tensors, or context is not int64.
        ValueError: shapes do not fit; on the CPU also when a sample or label is outside its range.

    References:
        van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016, eq. 1-3, fig. 3, 4.

    Example:
        >>> import torch
        >>> from dgm_fast.families import WaveNet, WaveNetConfig
        >>> config = WaveNetConfig(stacks=1, layers=4, channels=8, gate_channels=8, classes=2)
        >>> model, labels = WaveNet(config).eval(), torch.tensor([0, 1, 1])
        >>> model.receptive_field
        17
        >>> x = model.sample(3, labels, length=20)
        >>> x.shape, model.log_prob(x, labels).shape
        (torch.Size([3, 20]), torch.Size([3]))
    """

    family: ClassVar[str] = "wavenet"
    config_class: ClassVar[type] = WaveNetConfig

    def __init__(
        self,
        config: WaveNetConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.impl = config, impl
        self.levels, self.scale, self.classes = config.levels, config.scale, config.classes
        self.quantizer = Quantizer(config.scale, config.levels)
        self.output = make_waveform_output(config.output, self.quantizer, config.components, impl)

        with torch.get_default_device() if device is None else torch.device(device):
            self._build(config, impl)
        self.to(dtype)

    @property
    def receptive_field(self) -> int:
        """R, how many samples before it a sample depends on."""
        return self.config.receptive_field

    def _build(self, config: WaveNetConfig, impl: str) -> None:
        R, G, dilations = config.channels, config.gate_channels, config.dilations
        if config.input == "one_hot":
            self.first = OneHotConv(config.levels, R, config.first_kernel)
        else:
            self.first = ScalarConv(R, config.first_kernel, impl)
        learned = config.upsampling == "transposed"
        self.upsample = (
            Upsampling(config.features, config.hop, learned=learned) if config.features else None
        )
        self.layers = nn.ModuleList(
            ResidualLayer(
                R,
                G,
                config.kernel,
                dilation,
                classes=config.classes,
                features=config.features,
                is_last=place == len(dilations),
                impl=impl,
            )
            for place, dilation in enumerate(dilations, start=1)
        )
        self.skip = nn.Conv1d(G * len(dilations), config.skip_channels, 1)
        self.head = nn.Conv1d(config.skip_channels, config.head_channels, 1)
        self.last = nn.Conv1d(config.head_channels, self.output.parameters, 1)
        self._begin_small()

    @torch.no_grad()
    def _begin_small(self) -> None:
        for layer in self.layers[:-1]:
            layer.residual.weight.mul_(len(self.layers) ** -0.5)
        self.last.weight.mul_(0.1)
        if self.config.output == "logistic_mixture":
            # Components next to each other, each about as wide as they are apart.
            _, means, log_scales = self.last.bias.chunk(3)
            means.copy_(torch.linspace(-0.5, 0.5, len(means)) if len(means) > 1 else means * 0)
            log_scales.fill_(-math.log(2 * len(means)))

    def forward(
        self, x: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Return the parameters (B, P, T) of every sample's distribution."""
        return self._run(*self._inputs(x, context, features))

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Return the log-likelihood of the levels of x (B, T), (B,), in nats."""
        inputs = self._inputs(x, context, features)
        B, T = x.shape
        # Without a backward, rows need not be there at once, nor need all their layers' outputs.
        rows = max(1, B if torch.is_grad_enabled() else _PLACES // T)
        log_p = []
        for start in range(0, max(1, B), rows):
            part = [None if each is None else each[start : start + rows] for each in inputs]
            log_p.append(self.output.log_prob(self._run(*part), part[0]))
        return torch.cat(log_p)

    def loss(
        self, x: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Return the mean negative log-likelihood of a signal, a scalar in nats."""
        return -self.log_prob(x, context, features).mean()

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        length: int = 1000,
        features: Tensor | None = None,
        given: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        noise: AnyNoise | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Draw signals sample by sample, or go on from their beginning.

        Each sample costs one product with every weight; `sampler` is what draws it. The noise of a
        signal depends on the seed and its index alone: it is the same in a batch of any size.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: labels, broadcast to `shape`.
            generator: on the model's device; default torch's own.
            length: T, of the result.
            features: local ones, (*, F, frames), broadcast to `shape`.
            given: the signals' beginning, (*, up to T), broadcast to `shape`; comes back as it is.
            temperature: divides logits and multiplies scales; 0 leaves no chance.
            top_k: of categorical levels, draw among so many likeliest alone.
            top_p: likewise among the likeliest that together have this probability.
            noise: (n, T, N) for all n signals, or the `SeededNoise` of it; default drawn.
            progress: told the number of samples done and that of all, after each piece: a twentieth
                of all, or of a second where that is less.

        Shapes:
            Returns (*shape, T), in float32 or, of float64 parameters, float64.

        Raises:
            SamplingInterrupted: Ctrl-C; it has the samples as far as they were drawn.
        """
        shape = checks.as_shape(shape)
        n = math.prod(shape)
        context = checks.context_rows(context, shape, labels=True)
        label = checks.some_labels(context, self.classes, n)
        if features is not None:
            features = checks.rows_of("features", features, shape, 2)
        local = self._local(features, n, length)
        start = self._beginning(given, shape, length)
        noise = self._noise(noise, n, length, generator)
        filters = Filters(temperature, top_k, top_p)
        filters.check(self.config.output == "categorical", self.config.output)
        levels = self.quantizer.encode(start[:, :0])

        def made() -> Tensor:
            x = torch.cat([start, self.quantizer.decode(levels, start.dtype)], dim=1)
            return x.reshape(*shape, x.shape[1])

        with keeping(made):
            try:
                levels = self._go_on(start, label, local, noise, filters, progress)
            except SamplingInterrupted as stop:
                levels = stop.samples
                raise
        return made()

    def _go_on(
        self,
        start: Tensor,
        label: Tensor | None,
        local: Tensor | None,
        noise: AnyNoise,
        filters: Filters,
        progress: Callable[[int, int], object] | None,
    ) -> Tensor:
        """Return the levels that signals (n, P) go on with to the noise's end."""
        (n, done), length = start.shape, noise.shape[1]
        sampler = self.sampler()
        # What lies further back than the receptive field is out of sight.
        seen = slice(max(0, done - self.receptive_field), done)
        given = self.quantizer.encode(start[:, seen])
        state = sampler.feed(sampler.start(n, label), given, _of_times(local, seen))

        levels, _ = sampler.draw(
            state,
            features=_of_times(local, slice(done, None)),
            **vars(filters),
            noise=noise[:, done:],
            progress=None if progress is None else lambda new, _: progress(done + new, length),
        )
        return levels

    def sampler(self, *, impl: str | None = None) -> WaveNetSampler:
        """Return a sampler of the weights as they are now, for streams of any length.

        It takes and returns levels, which `quantizer` has the signal of, and features of every
        sample, as `upsample` makes them of frames.

        Arguments:
            impl: of the sampler; default that of the model.
        """
        network = WaveNetNetwork(
            self.first.weight,
            self.first.bias,
            tuple(layer.described() for layer in self.layers),
            self.skip.weight,
            self.skip.bias,
            self.head.weight,
            self.head.bias,
            self.last.weight,
            self.last.bias,
        )
        return WaveNetSampler(network, self.output, impl=impl or impl_of_model(self.impl))

    def draw_noise(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (n, T, N) that n signals are made from."""
        return drawn(self._noise(None, n, length, generator))

    def _run(self, levels: Tensor, label: Tensor | None, local: Tensor | None) -> Tensor:
        return self._head(self._gates(self._encode(levels), label, local))

    def _encode(self, levels: Tensor) -> Tensor:
        """Return levels (B, T) as the first convolution takes them."""
        if self.config.input == "one_hot":
            return levels
        return self.quantizer.scaled(levels, self.last.weight.dtype).unsqueeze(1)

    def _gates(self, x: Tensor, label: Tensor | None, local: Tensor | None) -> list[Tensor]:
        """Return z (B, G, T) of every layer."""
        h, gates = self.first(x), []
        for layer in self.layers:
            h, z = layer(h, label, local)
            gates.append(z)
        return gates

    def _head(self, gates: list[Tensor]) -> Tensor:
        """Return the parameters (B, P, T)."""
        skips = self.skip(torch.cat(gates, dim=1))
        return self.last(self.head(skips.relu()).relu())

    def _inputs(
        self, x: Tensor, context: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Check what the model is given; return levels (B, T), labels and features (B, F, T)."""
        checks.check_signal("x", x)
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"x must have shape (B, T) with T > 0; got {tuple(x.shape)}")
        B, T = x.shape
        label = checks.some_labels(context, self.classes, B)
        return self.quantizer.encode(x), label, self._local(features, B, T)

    def _local(self, features: Tensor | None, B: int, T: int) -> Tensor | None:
        """Check features (B, F, frames) and bring them to samples, (B, F, T)."""
        wanted = self.config.features
        if not wanted or features is None:
            if bool(wanted) != (features is not None):
                got = "None" if features is None else f"shape {tuple(features.shape)}"
                must = f"hold {wanted} features of each frame" if wanted else "be None"
                raise ValueError(f"features must {must}; got {got}")
            return None

        check_floating("features", features)
        hop = self.config.hop
        fits = features.ndim == 3 and features.shape[:2] == (B, wanted)
        if not fits or features.shape[2] * hop < T:
            raise ValueError(
                f"features must have shape (B, F, frames) = ({B}, {wanted}, at least "
                f"{math.ceil(T / hop)}); got {tuple(features.shape)}"
            )
        return self.upsample(features.to(self.last.weight.dtype), T)

    def _beginning(self, given: Tensor | None, shape: tuple[int, ...], length: int) -> Tensor:
        """Return the signals (n, P) to begin with."""
        if length < 1:
            raise ValueError(f"length must be positive; got {length}")
        weight, n = self.last.weight, math.prod(shape)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        if given is None:
            return weight.new_zeros(n, 0, dtype=dtype)
        checks.check_signal("given", given)
        if given.shape[-1] > length:
            raise ValueError(
                f"given must have at most length = {length} samples; got {given.shape[-1]}"
            )
        return checks.rows_of("given", given, shape, 1).to(dtype)

    def _noise(
        self, noise: AnyNoise | None, n: int, length: int, generator: torch.Generator | None
    ) -> AnyNoise:
        weight, shape = self.last.weight, (n, length, self.output.uniforms)
        if noise is None:
            draw, where = self.output.draw_noise, (weight.device, weight.dtype)
            return SeededNoise.from_generator(generator, draw, shape, *where)
        if noise.shape != shape:
            got = tuple(noise.shape)
            raise ValueError(f"noise must have shape (n, T, N) = {shape}; got {got}")
        return noise

    def extra_repr(self) -> str:
        return str(self.config)


def _of_times(local: Tensor | None, times: slice) -> Tensor | None:
    return None if local is None else local[..., times]
