"""The units of a masked network in the order in which a sweep finishes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["MaskedLayout", "ReversedLayout"]


class MaskedLayout:
    r"""Units sorted by degree, level by level, and the step that finishes each.

    Step p = 0 .. D-1 finishes the hidden units of degree p, which know the p features before it in
    the order, and then the feature of place p + 1. Level 0 is the input, which has the context
    before the features; levels 1 .. L are hidden; level L + 1 has the P parameters of each feature.
    It depends on degrees alone, and is made once for all weights.

    Arguments:
        places: of the features in the order, 1 .. D.
        degrees: of the units of each hidden layer: the number of features that they may know.
        parameters: P.
        context: C, columns of the first weight after the features'.

    Shapes:
        places (D,), degrees (H_l,) each, integers.

    Raises:
        ValueError: the places are no order, or a degree is negative.

    Example:
        >>> import torch
        >>> from dgm_fast.sampling import MaskedLayout
        >>> layout = MaskedLayout(torch.tensor([2, 1, 3]), [torch.tensor([2, 1, 1, 2])], 1)
        >>> layout.order.tolist(), layout.units[1].tolist(), layout.starts[1].tolist()
        ([1, 0, 2], [1, 2, 0, 3], [0, 0, 2, 4])
    """

    def __init__(
        self,
        places: Tensor,
        degrees: Sequence[Tensor],
        parameters: int,
        context: int = 0,
    ) -> None:
        places, degrees = places.cpu().long(), [each.cpu().long() for each in degrees]
        D = len(places)
        if sorted(places.tolist()) != list(range(1, D + 1)):
            raise ValueError(f"places must be a permutation of 1..{D}; got {places.tolist()}")
        for each in degrees:
            if len(each) and int(each.min()) < 0:
                raise ValueError(f"degrees must not be negative; got {int(each.min())}")

        self.features, self.parameters, self.context = D, parameters, context
        self.hidden = tuple(len(each) for each in degrees)
        self.degrees = tuple(degrees)
        # The feature of each step.
        self.order = places.argsort()
        first = torch.cat([torch.arange(D, D + context), self.order])
        outputs = (self.order[:, None] * parameters + torch.arange(parameters)).flatten()
        # The place in the weights of each sorted unit.
        self.units = (first, *(each.argsort(stable=True) for each in degrees), outputs)
        steps = torch.arange(D + 1)
        found = [torch.searchsorted(each.sort().values, steps) for each in degrees]
        # (L + 2, D + 1): a level's first unit of each step.
        self.starts = torch.stack([context + steps, *found, steps * parameters])
        # Lists, because looking a number up in a tensor takes a microsecond.
        self._starts = self.starts.tolist()
        self.is_sorted = [torch.equal(each, torch.arange(each.numel())) for each in self.units]

    @property
    def levels(self) -> int:
        """L + 1, the number of the level of parameters."""
        return len(self.hidden) + 1

    def start(self, level: int, step: int) -> int:
        """Return the first unit of a level that a step finishes."""
        return self._starts[level][step]

    def span(self, level: int, begin: int, end: int) -> slice:
        """Return the units of a level that steps [begin, end) finish."""
        return slice(self._starts[level][begin], self._starts[level][end])

    def rearranged(self, weight: Tensor, source: int, target: int) -> Tensor:
        """Return a weight (out, in) with its units sorted; itself where they are."""
        for dim, level in ((0, target), (1, source)):
            if not self.is_sorted[level]:
                weight = weight.index_select(dim, self.units[level].to(weight.device))
        return weight

    def triangle(self, source: int, target: int, begin: int, end: int) -> Tensor:
        """Return which units of a level see which of another, both of steps [begin, end)."""
        steps = torch.arange(begin, end)
        counts = self.starts[target, begin + 1 : end + 1] - self.starts[target, begin:end]
        ready = self.starts[source, steps if source == 0 else steps + 1]
        at = self.span(source, begin, end)
        return torch.arange(at.start, at.stop) < ready.repeat_interleave(counts)[:, None]

    @cached_property
    def reversed(self) -> ReversedLayout:
        """The layout of what goes back through the network."""
        return ReversedLayout(self)


class ReversedLayout:
    """A layout read from its end, in which what goes back to a feature comes from later ones alone.

    Level 0 has P inputs a feature, in place of its parameters, and the last one an output of each.

    Arguments:
        layout: that is turned round; not kept.

    Attributes:
        order, units, starts: as `MaskedLayout` has them.
    """

    def __init__(self, layout: MaskedLayout) -> None:
        P = layout.parameters
        steps = torch.arange(layout.features + 1)
        self.order = layout.order.flip(0)
        inputs = (self.order[:, None] * P + torch.arange(P)).flatten()
        hidden = [units.flip(0) for units in layout.units[-2:0:-1]]
        self.units = (inputs, *hidden, self.order)
        # Step q makes the feature of place D - q. A unit that knows d features is finished before
        # the last of them, in step D - d; one of d = D, which no feature sees, by the first.
        found = [
            torch.cat([steps[:1], (count - each[1:]).flip(0)])
            for count, each in zip(layout.hidden, layout.starts[1:-1], strict=True)
        ]
        self.starts = torch.stack([steps * P, *found[::-1], steps])
