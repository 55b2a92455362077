"""A masked network as its C++ sweep takes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_fast.sampling.masked_mlp import op
from dgm_fast.sampling.masked_mlp.layout import MaskedLayout
from dgm_fast.sampling.masked_mlp.network import ACTIVATIONS, MaskedNetwork
from dgm_fast.sampling.masked_mlp.state import MaskedState
from dgm_fast.sampling.masked_mlp.steps import KernelStep

__all__ = ["PackedSweep", "block_of"]

# Units of a level that a block adds, about: a few tiles of rows. Larger blocks have larger
# triangles, whose products are small; smaller ones read what is known more often.
_UNITS = 42


def block_of(layout: MaskedLayout) -> int:
    """Return the number of features of a block of the sweep."""
    widest = max((*layout.hidden, layout.features))
    return min(32, max(1, _UNITS * layout.features // widest))


class PackedSweep:
    """Copies the live weights, input-major in the order in which they are used, and sweeps."""

    def __init__(self, network: MaskedNetwork, step: KernelStep, block: int | None) -> None:
        layout = network.layout
        self.layout = layout
        block = block_of(layout) if block is None else block
        sizes = [layout.features, layout.context, layout.parameters, len(layout.hidden)]
        self.sizes = [*sizes, block, int(len(network.edges) > len(network.weights))]
        self.skips = list(network.skips) or [0] * len(layout.hidden)
        self.activation = ACTIVATIONS.index(network.activation)
        self.kind, self.constants = step.integers, step.constants
        weights = [weight.detach().float().contiguous() for *_, weight in network.edges]
        rows = [layout.units[target] for _, target, _ in network.edges]
        # None at all of a level that is sorted already.
        columns = [
            layout.units[source][: 0 if layout.is_sorted[source] else None]
            for source, *_ in network.edges
        ]
        self.weights = op.pack(weights, rows, columns, layout.starts, self.sizes)
        self.biases = _sorted_biases(network.biases, layout.units[1:])

    def go_on(self, state: MaskedState, noise: Tensor, end: int) -> None:
        """Move the state on to step `end`, in place."""
        op.go_on(
            state.x,
            state.levels,
            state.log_det,
            state.context,
            self.weights,
            self.biases,
            self.layout.starts,
            self.layout.order,
            noise,
            state.given,
            self.sizes,
            self.skips,
            self.activation,
            self.kind,
            self.constants,
            state.step,
            end,
            # Of a sweep that ends nobody asks what units hold.
            end < self.layout.features,
        )


def _sorted_biases(biases: Sequence[Tensor | None], units: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            torch.zeros(len(order)) if bias is None else bias.detach().float()[order]
            for bias, order in zip(biases, units, strict=True)
        ]
    )
