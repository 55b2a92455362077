"""The sampler of masked networks, which uses each live weight once a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast._core.checks import check_tensor
from dgm_fast._core.random import draw_seed
from dgm_fast.sampling.masked_mlp import op
from dgm_fast.sampling.masked_mlp.blocks import BLOCK, MaskedBlocks
from dgm_fast.sampling.masked_mlp.graphed import GraphedBlocks
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.packed import PackedSweep, pack_blocks, pack_stretches
from dgm_fast.sampling.masked_mlp.state import MaskedState
from dgm_fast.sampling.masked_mlp.steps import Step
from dgm_fast.sampling.noise import AnyNoise, SeededNoise, noise_for
from dgm_fast.sampling.pieces import pieces_of, wait_for

__all__ = ["MaskedSampler"]


class MaskedSampler:
    r"""Draws, or solves for, the features of a masked network in one sweep over their degrees.

    .. math:: x_{\sigma(p)} = f(\epsilon_{\sigma(p)};\ \theta_{\sigma(p)}
              (x_{\sigma(1)}, \dots, x_{\sigma(p-1)}, c)), \qquad p = 1, \dots, D

    A pass of the network a feature computes every unit D times. But a hidden unit of degree d is
    known for good once the d features it may know are: the sweep finishes each unit once. Live
    weights are about half of all, so D features cost what one evaluation of the density does.

    Arguments:
        network: copied, so that training goes on without the sampler.
        step: f, a `Draw` or the inverse of a flow.
        impl: `"auto"`, `"reference"`, in which blocks of features are iterated in plain PyTorch on
            any device, on a GPU as a CUDA graph, `"cpp"` on a CPU, or `"cuda"`, one launch on an
            NVIDIA GPU, which `auto` takes there where it can run.
        block: features of a block; default what measured fastest on a CPU, of a graph up to 256.
            Of the reference, D makes it the fixed-point iteration of the whole network.

    Shapes:
        x (B, D), noise (B, D, N) as `draw_noise` makes it, or the `SeededNoise` of it, for a flow
        (B, D, 1) of y.

    Precision:
        Computes in float32 for bfloat16 and float16 networks too; float64 runs on the reference.
        Of the kernels, the bits of a sample depend neither on the batch, nor on threads, nor on
        where a sweep was cut into pieces, but for the sum of log-slopes of pieces that end within
        a block. Between implementations, noise within rounding of the
        border between two values may fall to either side.

    Gradients:
        None.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.
        ImplementationUnavailable: the `impl` asked for cannot run.

    References:
        Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution
        Estimation", 2015. Song, Meng, Liao, Ermon, "Accelerating Feedforward Computation via
        Parallel Nonlinear Equation Solving", 2021, for the iteration.

    Example:
        >>> import torch
        >>> from dgm_fast.families import MADE, MADEConfig
        >>> sampler = MADE(MADEConfig(features=20, hidden=(64,))).sampler()
        >>> noise = sampler.draw_noise(3)
        >>> whole = sampler.draw(sampler.start(3), noise)
        >>> state = sampler.start(3)
        >>> first = sampler.draw(state, noise, steps=8).clone()
        >>> second = sampler.draw(state, noise)
        >>> torch.equal(whole, second), torch.equal(whole[:, :8], first[:, :8]), state.step
        (True, True, 20)
    """

    def __init__(
        self,
        network: MaskedNetwork,
        step: Step,
        *,
        impl: str = "auto",
        block: int | None = None,
    ) -> None:
        weight, layout = network.weights[0], network.layout
        if step.parameters != layout.parameters:
            raise ValueError(
                f"step must take the network's {layout.parameters} parameters a feature; "
                f"it takes {step.parameters}"
            )
        if block is not None and block < 1:
            raise ValueError(f"block must be at least 1; got {block}")
        self.layout, self.step, self.device = layout, step, weight.device
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.impl = op.choose(impl, network, step, block)
        self._macs = sum(each.numel() for *_, each in network.edges) // 2
        self._sweep = self._sweep_of(network, block)

    def _sweep_of(self, network: MaskedNetwork, block: int | None) -> PackedSweep | MaskedBlocks:
        if self.impl == "reference":
            # Of a step that no kernel knows, nobody knows whether a graph may capture it.
            if self.device.type == "cuda" and self.step.kernel is not None:
                return GraphedBlocks(network, self.dtype, block)
            return MaskedBlocks(network, self.dtype, block or BLOCK)
        pack = pack_blocks if self.impl == "cpp" else pack_stretches
        return PackedSweep(network, self.step.kernel, pack(network, block), op.go_on[self.impl])

    def start(
        self,
        batch: int,
        context: Tensor | None = None,
        *,
        given: Tensor | None = None,
        given_mask: Tensor | None = None,
    ) -> MaskedState:
        """Return the state before the first feature.

        Arguments:
            batch: B.
            context: (B, C).
            given: (B, D), the values of features that are given; others are not looked at.
            given_mask: (B, D) bool, True for those. A given feature keeps its value; one that comes
                later in the order does not influence those before it.
        """
        D, C = self.layout.features, self.layout.context
        if batch < 0:
            raise ValueError(f"batch must not be negative; got {batch}")
        if (context is None) != (C == 0) or (context is not None and context.shape != (batch, C)):
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            must = f"have shape (B, C) = {(batch, C)}" if C else "be None"
            raise ValueError(f"context must {must}; got {got}")
        x = torch.zeros(batch, D, dtype=self.dtype, device=self.device)
        mask = self._given(x, given, given_mask)
        if context is not None:
            context = context.detach().to(self.device, self.dtype).contiguous()
        levels = x.new_empty(batch, sum(self.layout.hidden))
        return MaskedState(x, mask, context, levels, x.new_zeros(batch))

    def draw(
        self,
        state: MaskedState,
        noise: AnyNoise | None = None,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Move the state on, in place, and return its x (B, D).

        It goes on in pieces; one that Ctrl-C ends leaves the state after the piece before it.

        Arguments:
            state: of `start`, or of a draw before; clone it to keep it.
            noise: (B, D, N) of all features, those done and given included, that decides them;
                default drawn, by a GPU's kernel where it uses it. That of a flow, y, must be given.
            steps: how many features to go; default all that are left.
            generator: to draw it from; default torch's own.
            progress: told the number of features done and that of all, after each piece.
        """
        D = self.layout.features
        if noise is None:
            noise = self._seeded(state.batch, generator)
        noise = self._check(state, noise)
        left = D - state.step
        if steps is not None and not 0 <= steps <= left:
            raise ValueError(f"steps must be in 0 .. {left}; got {steps}")
        end = D if steps is None else state.step + steps
        piece = self._piece(state.batch, progress is not None)
        with torch.autocast(self.device.type, enabled=False):
            while state.step < end:
                # Whole blocks, whose units are then run once.
                until = min(end, (state.step // piece + 1) * piece)
                self._go_on(state, noise, until)
                if progress is not None:
                    wait_for(self.device)
                    progress(state.step, D)
        return state.x

    def draw_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (B, D, N) that decides features; a flow has none of its own."""
        return self._seeded(batch, generator).tensor()

    def _seeded(self, batch: int, generator: torch.Generator | None) -> SeededNoise:
        if batch < 0:
            raise ValueError(f"batch must not be negative; got {batch}")
        seed = draw_seed(self.device, generator)
        return self.step.seeded_noise(batch, self.layout.features, seed, self.dtype)

    def _go_on(self, state: MaskedState, noise: AnyNoise, until: int) -> None:
        if self.impl == "reference":
            self._sweep.go_on(state, noise, until, self.step)
        else:
            self._sweep.go_on(state, noise, until)

    def _piece(self, batch: int, with_progress: bool) -> int:
        """Return how many features go between two looks at the keyboard."""
        D = self.layout.features
        block = self._sweep.block
        pieces = pieces_of(self._macs * batch, with_progress)
        return max(1, round(D / pieces / block)) * block if pieces > 1 else D

    def _given(self, x: Tensor, given: Tensor | None, mask: Tensor | None) -> Tensor | None:
        if (given is None) != (mask is None):
            missing = "given" if given is None else "given_mask"
            raise ValueError(f"given and given_mask must come together; {missing} is None")
        if given is None:
            return None

        for name, value in (("given", given), ("given_mask", mask)):
            check_tensor(name, value)
            if value.shape != x.shape:
                expected, got = tuple(x.shape), tuple(value.shape)
                raise ValueError(f"{name} must have shape (B, D) = {expected}; got {got}")
        if mask.dtype != torch.bool:
            raise TypeError(f"given_mask must be bool; got {mask.dtype}")
        mask = mask.to(self.device).contiguous()
        x.copy_(torch.where(mask, given.detach().to(x), x))
        return mask

    def _check(self, state: MaskedState, noise: AnyNoise) -> AnyNoise:
        # y of a flow has no seed that a kernel knows.
        impl = "reference" if self.step.is_flow else self.impl
        noise = noise_for(noise, impl, self.device, self.dtype)
        expected = state.batch, self.layout.features, self.step.noise
        if tuple(noise.shape) != expected:
            got = tuple(noise.shape)
            raise ValueError(f"noise must have shape (B, D, N) = {expected}; got {got}")
        units = sum(self.layout.hidden)
        if state.x.shape[1:] != expected[1:2] or state.levels.shape[1:] != (units,):
            got = tuple(state.x.shape), tuple(state.levels.shape)
            raise ValueError(f"state must be of this sampler's; got x and levels of {got}")
        if (state.x.dtype, state.x.device) != (self.dtype, self.device):
            wanted, got = f"{self.dtype} on {self.device}", f"{state.x.dtype} on {state.x.device}"
            raise ValueError(f"state must be of this sampler's {wanted}; got {got}")
        C, context = self.layout.context, state.context
        if (context is None) != (C == 0) or (C and context.shape != (state.batch, C)):
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"state must be of this sampler's; got a context of {got}")
        return noise
