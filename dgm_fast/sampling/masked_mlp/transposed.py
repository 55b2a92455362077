"""The transposed system of an autoregressive step, solved in one sweep on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_fast._core.checks import check_shape
from dgm_fast.sampling.masked_mlp import op
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.packed import block_of

__all__ = ["TransposedSweep"]


class TransposedSweep:
    r"""Solves :math:`J^\top w = g` for the J of an autoregressive step, by one use of each weight.

    .. math:: w_d = \Big(g_d - \sum_u \frac{\partial h_{1,u}}{\partial x_d}\, \bar h_{1,u}\Big)
              / s_d, \qquad \bar\theta_d = w_d\, \frac{\partial y_d}{\partial \theta_d}

    What goes back to feature d comes from the parameters of later features alone: this is a sweep
    through the network turned round, from the last feature to the first.

    Arguments:
        network: of ReLU layers; its weights are copied.
        block: features of a block; default what measured fastest.

    Shapes:
        As `MaskedBlocks.solve_transposed`, which is its reference.

    Precision:
        float32, where subnormal numbers count as zero. Bits depend neither on the batch nor on
        threads.

    Gradients:
        None.
    """

    @torch.no_grad()
    def __init__(self, network: MaskedNetwork, block: int | None = None) -> None:
        layout = network.layout
        self.layout, levels, self.parameters = layout.reversed, layout.levels, layout.parameters
        block = block_of(layout) if block is None else block
        sizes = [layout.features, 0, 1, levels - 1, block, int(network.is_direct)]
        self.sizes = [*sizes, *reversed(layout.hidden)]
        # A level whose sums another one adds to its own takes what goes back through that one.
        self.skips = [0] * (levels - 1)
        for level, skip in enumerate(network.skips, start=1):
            if skip:
                self.skips[levels - skip - 1] = levels - level
        edges = [(level, level + 1, each) for level, each in enumerate(reversed(network.weights))]
        if network.is_direct:
            edges.append((0, levels, network.direct))
        self.packed = op.pack(
            [weight.detach().float().T for *_, weight in edges],
            [self.layout.units[target] for _, target, _ in edges],
            [self.layout.units[source] for source, *_ in edges],
            self.layout.starts,
            self.sizes,
        )

    @torch.no_grad()
    def solve_transposed(
        self, grad: Tensor, slopes: Tensor, by_parameters: Tensor, hidden: Sequence[Tensor]
    ) -> Tensor:
        """Return w (B, D) of grad and slopes (B, D), by_parameters (B, D, P), hidden (B, H) each.

        What hidden layers hold, after the ReLU, is in their own order, the first layer's first.
        """
        # The kernel reads as many numbers as its weights ask for.
        B, D, widths = len(grad), self.sizes[0], self.sizes[6:]
        check_shape("grad", grad, (B, D), "(B, D)")
        check_shape("slopes", slopes, (B, D), "(B, D)")
        check_shape("by_parameters", by_parameters, (B, D, self.parameters), "(B, D, P)")
        for each, width in zip(reversed(hidden), widths, strict=True):
            check_shape("hidden", each, (B, width), "(B, H)")

        w = op.solve_transposed(
            grad.float().contiguous(),
            slopes.float().contiguous(),
            by_parameters.float().contiguous(),
            [each.float().contiguous() for each in reversed(hidden)],
            list(self.layout.units[1:-1]),
            self.packed,
            self.layout.starts,
            self.layout.order,
            self.sizes,
            self.skips,
        )
        return w.to(grad.dtype)
