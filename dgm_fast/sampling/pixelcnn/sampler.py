"""The sampler of PixelCNNs, whose every pixel uses each weight once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dgm_fast._core.checks import check_integers, check_shape, some_labels
from dgm_fast.distributions import BernoulliPixels, CategoricalPixels
from dgm_fast.distributions.discretized_logistic import lowest_log_scale
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.noise import AnyNoise, SeededNoise, noise_arguments, noise_for
from dgm_fast.sampling.pieces import Pace, draw_in_pieces
from dgm_fast.sampling.pixelcnn import op
from dgm_fast.sampling.pixelcnn.eager import EagerLoop
from dgm_fast.sampling.pixelcnn.graphed import GraphedLoop
from dgm_fast.sampling.pixelcnn.network import PixelNetwork
from dgm_fast.sampling.pixelcnn.packed import pack
from dgm_fast.sampling.pixelcnn.plan import make_plan
from dgm_fast.sampling.pixelcnn.state import PixelState

__all__ = ["PixelSampler"]

# As many are drawn in the time of one.
_IMAGES_OF_A_GPU = 100


class PixelSampler:
    r"""Draws images pixel by pixel in raster order, row by row with the state in and out.

    .. math:: x_i \sim p(x_i \mid x_1, \dots, x_{i-1}, c), \qquad i = 1, \dots, H W

    A pass of the network runs every layer at all pixels to learn about one. Here each step keeps
    the rows that later pixels look back on, and a pixel is one product with every weight; what
    depends on rows above alone is made for a whole row at once. The state goes in and comes out;
    pieces of an image are the whole, bit for bit. A draw goes on in pieces, rows that take about a
    twentieth of a second together or a single one; one that Ctrl-C ends leaves the state after the
    row before it, to go on from.

    Arguments:
        network: described step by step; its weights are copied, so that training goes on without
            the sampler.
        impl: `"auto"`, `"reference"`, a cached loop in plain PyTorch on any device, `"cpp"` on a
            CPU, or `"cuda"`, one launch for all rows of a piece, on an NVIDIA GPU, where `auto`
            takes it of small networks alone.

    Shapes:
        Images (B, C, H, W) of levels in the dtype computed in, given (B, H, W) bool, noise
        (B, D, N) as `output.draw_noise` makes it, or the `SeededNoise` of it.

    Precision:
        Computes in float32 for bfloat16 and float16 networks too; float64 runs on the reference.
        Given the same noise, implementations round differently: one that lies within rounding of
        the border between two levels may fall to either side.

    Gradients:
        None.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.
        ImplementationUnavailable: the `impl` asked for cannot run.

    References:
        Ramachandran, Le Paine, Khorrami, Babaeizadeh, Chang, Zhang, Hasegawa-Johnson, Campbell,
        Huang, "Fast Generation for Convolutional Autoregressive Models", 2017.

    Example:
        >>> import torch
        >>> from dgm_fast.families import PixelCNN, PixelCNNConfig
        >>> sampler = PixelCNN(PixelCNNConfig((5, 6), channels=8, blocks=1)).sampler()
        >>> state = sampler.start(3)
        >>> other = state.clone()
        >>> whole = sampler.draw(state).images
        >>> other = sampler.draw(other, rows=2)
        >>> int(other.done), torch.equal(sampler.draw(other).images, whole)
        (2, True)
    """

    def __init__(self, network: PixelNetwork, *, impl: str = "auto") -> None:
        weight = network.weight
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.device, self.output = weight.device, network.output
        self.size, self.classes, self._ones = network.size, network.classes, network.ones
        plan = make_plan(network, self.dtype)
        self.impl = op.choose(impl, plan)
        self._bias, self._labels = plan.bias, plan.labels
        self.floats, self.multiply_adds = plan.floats, plan.multiply_adds
        self._steps = len(plan.works)
        if self.impl == "reference":
            loop = GraphedLoop if self.device.type == "cuda" else EagerLoop
            self._loop = loop(plan, self.output, self.size)
        else:
            self._packed = pack(plan)

    @property
    def features(self) -> int:
        """D: how many draws an image takes."""
        return self.size[0] * self.size[1] * self.output.ordered_channels

    @torch.no_grad()
    def start(
        self,
        batch: int,
        context: Tensor | None = None,
        *,
        images: Tensor | None = None,
        given: Tensor | None = None,
        noise: AnyNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> PixelState:
        """Return the state before the first row.

        Arguments:
            batch: B.
            context: labels (B,) of a network that has them.
            images: the pixels that are given, and anything elsewhere; copied.
            given: where they are; none by default.
            noise: that decides the images; default drawn, by a GPU's kernel where it uses it.
            generator: to draw it from; default torch's own.
        """
        if batch < 0:
            raise ValueError(f"batch must not be negative; got {batch}")
        context = some_labels(context, self.classes, batch)
        condition = self._bias if context is None else self._bias + self._labels[context]
        images, given = self._given(batch, images, given)
        if noise is None:
            noise = self._seeded(batch, generator)
        rows = torch.zeros(batch, self.floats, dtype=self.dtype, device=self.device)
        noise = self._noise(noise, batch)
        return PixelState(images, given, noise, rows, condition, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def draw(
        self,
        state: PixelState,
        rows: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        parameters_out: Tensor | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> PixelState:
        """Draw the next rows; moves `state` on in place, and returns it.

        Arguments:
            state: of `start`; clone it to keep it.
            rows: how many, or up to the last.
            temperature: divides logits and multiplies scales; 0 leaves no chance.
            top_k: of categorical values, draw among so many likeliest alone.
            top_p: likewise among the likeliest that together have this probability.
            parameters_out: (B, D, P), filled with what each value of these rows was drawn from.
            progress: told the number of rows done and that of all, after each piece: a twentieth of
                these rows, or what takes one of a second where that is less.
        """
        self._check_state(state)
        filters = Filters(temperature, top_k, top_p)
        filters.check(isinstance(self.output, CategoricalPixels), type(self.output).__name__)
        if rows is not None and rows < 0:
            raise ValueError(f"rows must not be negative; got {rows}")
        if parameters_out is not None:
            each = self.output.parameters // self.output.ordered_channels
            shape = state.batch, self.features, each
            check_shape("parameters_out", parameters_out, shape, "(B, D, P)")

        height, done = self.size[0], int(state.done)
        last = height if rows is None else min(height, done + rows)
        # A state of a GPU's kernel may hold the seed.
        seen = replace(state, noise=self._noise(state.noise, state.batch))
        parameters = parameters_out
        if parameters is not None and self.impl != "reference":
            parameters = parameters.to(self.device, self.dtype).contiguous()
        try:
            draw_in_pieces(
                lambda _, until: self._go_on(seen, until, filters, parameters),
                done,
                last,
                self._pace(state.batch),
                self.device,
                progress,
                height,
            )
        finally:
            if parameters is not parameters_out:
                parameters_out.copy_(parameters)
        return state

    def draw_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (B, D, N) that decides images."""
        return self._seeded(batch, generator).tensor()

    def _seeded(self, batch: int, generator: torch.Generator | None) -> SeededNoise:
        draw, shape = self.output.draw_noise, (batch, self.features, self.output.uniforms)
        return SeededNoise.from_generator(generator, draw, shape, self.device, self.dtype)

    def _pace(self, batch: int) -> Pace:
        """Return the pieces of a draw: on a GPU a guess that makes few, on a CPU a cautious one."""
        W = self.size[1]
        if self.impl == "cuda":
            return Pace(W * 1.2e-6 * self._steps * max(1, batch / _IMAGES_OF_A_GPU))
        products = self.multiply_adds * batch / 5e9
        if self.impl == "cpp":
            return Pace(W * max(products, 5e-6))
        return Pace(W * (2e-5 * self._steps + products))

    def _go_on(
        self, state: PixelState, last: int, filters: Filters, parameters: Tensor | None
    ) -> None:
        """Move the state on in place, up to a row."""
        if state.batch == 0:
            state.done.fill_(last)
            return
        if self.impl == "reference":
            with torch.autocast(self.device.type, enabled=False):
                self._loop.go_on(state, last, filters, parameters)
            return

        output, packed = self.output, self._packed
        kinds = {BernoulliPixels: "bernoulli", CategoricalPixels: "categorical"}
        op.draw[self.impl](
            state.images,
            state.rows,
            state.done,
            parameters,
            state.given,
            *noise_arguments(state.noise),
            state.condition,
            packed.weights,
            packed.places,
            packed.works,
            packed.taps,
            packed.sizes,
            last,
            kinds.get(type(output), "logistic_mixture"),
            output.parameters // output.ordered_channels,
            output.values_at_once,
            output.levels,
            self._ones,
            *filters.constants,
            lowest_log_scale(output.levels),
            self.multiply_adds,
        )

    def _given(
        self, batch: int, images: Tensor | None, given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        shape = batch, self.output.channels, *self.size
        if (images is None) != (given is None):
            missing = "images" if images is None else "given"
            raise ValueError(f"{missing} must not be None: pixels are given by values and a mask")
        if images is None:
            none = torch.zeros(batch, *self.size, dtype=torch.bool, device=self.device)
            return torch.zeros(shape, dtype=self.dtype, device=self.device), none
        check_shape("images", images, shape, "(B, C, H, W)")
        check_shape("given", given, (batch, *self.size), "(B, H, W)")
        if given.dtype is not torch.bool:
            raise TypeError(f"given must be bool; got {given.dtype}")

        # What is not given may hold anything.
        given = given.to(self.device, copy=True).contiguous()
        kept = images.to(self.device, self.dtype).where(given[:, None], 0).contiguous()
        check_integers("images", kept, self.output.levels - 1)
        return kept, given

    def _noise(self, noise: AnyNoise, batch: int) -> AnyNoise:
        noise = noise_for(noise, self.impl, self.device, self.dtype)
        N = self.output.uniforms
        check_shape("noise", noise, (batch, self.features, N), "(B, D, N)")
        return noise

    def _check_state(self, state: PixelState) -> None:
        if (
            state.rows.shape[1:] != (self.floats,)
            or state.images.shape[1:] != (self.output.channels, *self.size)
            or state.condition.shape[1:] != self._bias.shape[1:]
            or (state.rows.dtype, state.rows.device) != (self.dtype, self.device)
        ):
            rows = state.rows
            got = f"{tuple(rows.shape)} of {rows.dtype} on {rows.device}"
            raise ValueError(f"state must be of this sampler's; got rows {got}")
