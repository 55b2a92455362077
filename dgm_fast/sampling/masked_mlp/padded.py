"""The blocks of a layout, padded to one size, so that one computation runs any of them."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.masked_mlp.layout import MaskedLayout

__all__ = ["PaddedLayout", "padded_of"]

# Units of a hidden level. Layouts of a model's sets of masks then mostly have the same widths.
_UNITS = 32


class PaddedLayout:
    """Where the weights within each block lie, with zeros up to the widest one.

    Arguments:
        layout: of the units; not kept.
        size: features of a block.
        edges: which level goes to which.
        device: of the weights.

    Attributes:
        widths: units of each level that a block has, padding included.
    """

    def __init__(
        self,
        layout: MaskedLayout,
        size: int,
        edges: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> None:
        firsts = range(0, layout.features, size)
        spans = [(first, min(first + size, layout.features)) for first in firsts]
        widest = [
            max(layout.start(level, last) - layout.start(level, first) for first, last in spans)
            for level in range(layout.levels + 1)
        ]
        hidden = [ceil_div(each, _UNITS) * _UNITS for each in widest[1:-1]]
        self.widths = (size, *hidden, size * layout.parameters)
        self._picks = [
            [each.to(device) for each in self._picks_of(layout, spans, source, target)]
            for source, target in edges
        ]

    def within(self, weights: Sequence[Tensor]) -> Tensor:
        """Return what units of each block give to each other: (blocks, floats), edge by edge.

        Arguments:
            weights: of each edge, its units sorted.
        """
        parts = [
            # Of a layer without units there is nothing to look up.
            torch.where(is_there, weight[rows, columns], 0.0)
            if weight.numel() > 0
            else weight.new_zeros(is_there.shape)
            for weight, (rows, columns, is_there) in zip(weights, self._picks, strict=True)
        ]
        return torch.cat([each.flatten(1) for each in parts], dim=1)

    def _picks_of(
        self, layout: MaskedLayout, spans: Sequence[tuple[int, int]], source: int, target: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each block's rows and columns of a weight, and which of these it has."""
        sizes = self.widths[target], self.widths[source]
        rows = torch.zeros(len(spans), sizes[0], 1, dtype=torch.int64)
        columns = torch.zeros(len(spans), 1, sizes[1], dtype=torch.int64)
        is_there = torch.zeros(len(spans), *sizes, dtype=torch.bool)
        for place, (first, last) in enumerate(spans):
            to, at = (layout.span(level, first, last) for level in (target, source))
            outs, ins = to.stop - to.start, at.stop - at.start
            rows[place, :outs, 0] = torch.arange(to.start, to.stop)
            columns[place, 0, :ins] = torch.arange(at.start, at.stop)
            is_there[place, :outs, :ins] = layout.triangle(source, target, first, last)
        return rows, columns, is_there


# Kept, because models make a sampler a call; they go with their layout, as its model does.
_known: WeakKeyDictionary[MaskedLayout, dict[tuple[object, ...], PaddedLayout]] = (
    WeakKeyDictionary()
)


def padded_of(
    layout: MaskedLayout, size: int, edges: Sequence[tuple[int, int]], device: torch.device
) -> PaddedLayout:
    """Return a layout's blocks of so many features."""
    known, key = _known.setdefault(layout, {}), (size, tuple(edges), device)
    if key not in known:
        known[key] = PaddedLayout(layout, size, edges, device)
    return known[key]
