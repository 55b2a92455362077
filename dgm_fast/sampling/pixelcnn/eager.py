"""The cached loop in plain PyTorch: the reference of the C++ sampler, and its stand-in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.distributions import PixelOutput
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.pixelcnn.plan import IN_ROW, IN_STATE, Place, Plan, Tap, Work
from dgm_fast.sampling.pixelcnn.state import PixelState

__all__ = ["EagerLoop", "Row", "kept_at", "runs"]


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return a.tanh() * b.sigmoid()


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "elu": F.elu,
    "concat_elu": lambda x: F.elu(torch.cat([x, -x], dim=-1)),
    "gate": _gate,
    "glu": lambda x: F.glu(x, dim=-1),
}


class EagerLoop:
    """Draws images pixel by pixel; each costs one product with every weight.

    All taps of a step stand one under another for a single product, those known before a row is
    begun for all of that row.
    """

    def __init__(self, plan: Plan, output: PixelOutput, size: tuple[int, int]) -> None:
        self.plan, self.output, self.size = plan, output, size
        self.draws = [work for work in plan.works if work.kind == "draw"]
        self.groups = {work.out: group for group, work in enumerate(self.draws)}
        self.by_layer = list(enumerate(plan.works))
        self.by_group = sorted(self.by_layer, key=lambda each: each[1].group)
        self.above = [_stacked(work.above) for work in plan.works]
        self.own = [_stacked(work.own) for work in plan.works]
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def go_on(
        self, state: PixelState, last: int, filters: Filters, parameters_out: Tensor | None
    ) -> None:
        """Move the state on in place, up to a row."""
        whole = state.given.all(0).tolist()
        for row in range(int(state.done), last):
            self.draw_row(state, row, whole[row], filters, parameters_out)
            state.done.add_(1)

    def draw_row(
        self,
        state: PixelState,
        row: int,
        given: Sequence[bool],
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> None:
        """Draw a row, of which some pixels are given to all images."""
        Row(self, state, row, filters, parameters_out).draw(runs(given))

    def index_of(self, spots: tuple[int, ...]) -> Tensor:
        """Return spots as a tensor, which stays: a graph may not copy it to a GPU."""
        if spots not in self._indices:
            self._indices[spots] = torch.tensor(spots, device=self.plan.bias.device)
        return self._indices[spots]


class Row:
    """One row of all images. What pixels made is in `now`, what other pixels look at in `kept`.

    Arguments:
        first: the row with which the state's images begin.
    """

    def __init__(
        self,
        loop: EagerLoop,
        state: PixelState,
        row: int,
        filters: Filters,
        parameters_out: Tensor | None,
        first: int = 0,
    ) -> None:
        self.loop, self.plan, self.output = loop, loop.plan, loop.output
        self.state, self.row, self.line = state, row, row - first
        self.filters, self.parameters_out = filters, parameters_out
        self.kept: list[Tensor | None] = []
        for place in self.plan.places:
            values = None
            if place.where == IN_STATE:
                values = kept_at(place, state.rows)
            elif place.where == IN_ROW:
                shape = place.rows, place.columns, place.floats
                values = state.rows.new_empty(state.batch, *shape)
            self.kept.append(values)
        self.now: dict[int, Tensor] = {}

    def draw(self, runs: Iterator[tuple[int, int, bool]]) -> None:
        """Draw the row, run by run: pixels that are given to all at once, others one by one."""
        for index, work in self.loop.by_layer:
            columns = self._columns(work, 0, self.loop.size[1])
            if not columns:
                continue
            if work.ahead:
                self._keep(work, columns, self._made(index, work, columns, {}))
            elif work.above:
                self._keep(work, columns, self._begun(index, work, columns))

        for first, last, given in runs:
            self.now.clear()
            if given:
                for work in self.loop.draws:
                    self._reveal(work, range(first, last))
            # Of pixels that are given, all groups of a layer look to the left at all groups below.
            for index, work in self.loop.by_layer if given else self.loop.by_group:
                columns = self._columns(work, first, last)
                idle = given and work.for_draw and self.parameters_out is None
                if not columns or work.ahead or idle:
                    continue
                if work.kind == "draw":
                    self._draw(work, columns, given)
                else:
                    self.now[work.out] = self._made(index, work, columns, self.now)
                    self._keep(work, columns, self.now[work.out])

    def _columns(self, work: Work, first: int, last: int) -> range:
        """Return those of the columns at which a step has a value in this row."""
        stride = self.plan.places[work.out].stride
        return range(0) if self.row % stride else range(-(-first // stride) * stride, last, stride)

    def _made(self, index: int, work: Work, columns: range, now: dict[int, Tensor]) -> Tensor:
        """Return the value (B, n, floats) of a step."""
        if work.kind != "affine":
            y = MAPS[work.kind](self._at(work.source, columns, now))
            return y if work.add < 0 else y + self._at(work.add, columns, now)

        begun = work.above and not work.ahead
        y = self._look(work.out, 0, columns) if begun else self._begun(index, work, columns)
        if work.add >= 0:
            y = y + self._at(work.add, columns, now)
        y = self._products(y, work.own, self.loop.own[index], columns, now)
        return y if work.then is None else MAPS[work.then](y)

    def _begun(self, index: int, work: Work, columns: range) -> Tensor:
        """Return the bias and what is known before the row."""
        floats = self.plan.places[work.out].floats
        bias = self.state.condition[:, None, work.bias : work.bias + floats]
        y = bias.expand(self.state.batch, len(columns), floats)
        return self._products(y, work.above, self.loop.above[index], columns, {})

    def _products(
        self,
        y: Tensor,
        taps: Sequence[Tap],
        matrix: Tensor | None,
        columns: range,
        now: dict[int, Tensor],
    ) -> Tensor:
        if not taps:
            return y
        seen = []
        for tap in taps:
            place = self.plan.places[tap.source]
            if tap.right == 0 and tap.source in now and place.stride == columns.step:
                x = now[tap.source]
            else:
                x = self._look(tap.source, tap.down, columns, tap.right)
            seen.append(x[..., : place.depth])
        x = torch.cat(seen, dim=-1) if len(seen) > 1 else seen[0]
        return torch.addmm(y.flatten(0, 1), x.flatten(0, 1), matrix).view_as(y)

    def _at(self, value: int, columns: range, now: dict[int, Tensor]) -> Tensor:
        return now[value] if value in now else self._look(value, 0, columns)

    def _look(self, value: int, down: int, columns: range, right: int = 0) -> Tensor:
        """Return a value (B, n, floats) at an offset, zeros where it does not exist."""
        place, kept, row = self.plan.places[value], self.kept[value], self.row + down
        if row < 0 or row % place.stride:
            return kept.new_zeros(1, 1, 1).expand(len(kept), len(columns), place.floats)

        values = kept[:, row // place.stride % place.rows]
        exist = [0 <= c + right < self.loop.size[1] for c in columns]
        if columns.step == place.stride and right % place.stride == 0 and all(exist):
            first = (columns.start + right) // place.stride
            return values[:, first : first + len(columns)]
        spots = tuple(
            (c + right) // place.stride if e and (c + right) % place.stride == 0 else place.columns
            for c, e in zip(columns, exist, strict=True)
        )
        return F.pad(values, (0, 0, 0, 1)).index_select(1, self.loop.index_of(spots))

    def _keep(self, work: Work, columns: range, value: Tensor) -> None:
        """Put a value where other pixels find it."""
        place, kept = self.plan.places[work.out], self.kept[work.out]
        if kept is not None:
            first = columns.start // place.stride
            spot = kept[:, self.row // place.stride % place.rows, first : first + len(columns)]
            spot[..., : value.shape[-1]] = value

    def _draw(self, work: Work, columns: range, given: bool) -> None:
        """Draw what is not given of one draw of a pixel."""
        steps, group = len(self.loop.draws), self.loop.groups[work.out]
        first = (self.line * self.loop.size[1] + columns.start) * steps + group
        parameters = self._at(work.source, columns, self.now)
        parameters = parameters[..., : self.output.parameters // steps]
        if self.parameters_out is not None:
            # A slice: a list would be copied to a GPU, which a graph may not.
            self.parameters_out[:, first : first + len(columns) * steps : steps] = parameters
        if not given:
            levels = self._levels(work, columns)
            noise = self.state.noise[:, first]
            drawn = self.filters.pick(self.output.pick, parameters[:, 0], noise)
            drawn = drawn.view(len(levels), -1)
            keep = self.state.given[:, self.line, columns.start, None]
            levels[:, 0] = torch.where(keep, levels[:, 0], drawn.to(levels.dtype))
            self._reveal(work, columns)

    def _levels(self, work: Work, columns: range) -> Tensor:
        """Return a view (B, n, V) of the image's levels of one draw."""
        at_once = self.output.values_at_once
        first = self.loop.groups[work.out] * at_once
        levels = self.state.images[:, first : first + at_once, self.line]
        return levels[..., columns.start : columns.stop].transpose(1, 2)

    def _reveal(self, work: Work, columns: range) -> None:
        """Put levels where the network sees them."""
        value = self.output.encode(self._levels(work, columns))
        if self.plan.places[work.out].depth > value.shape[-1]:
            value = F.pad(value, (0, 1), value=1.0)
        self._keep(work, columns, value)


def kept_at(place: Place, rows: Tensor) -> Tensor:
    """Return a view (B, rows, columns, floats) of what a state keeps of a value."""
    shape = place.rows, place.columns, place.floats
    return rows[:, place.offset : place.offset + math.prod(shape)].unflatten(1, shape)


def runs(given: Sequence[bool]) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, last + 1, given) for each pixel to draw and each run of those that are not."""
    first = 0
    while first < len(given):
        last = first + 1
        while given[first] and last < len(given) and given[last]:
            last += 1
        yield first, last, given[first]
        first = last


def _stacked(taps: Sequence[Tap]) -> Tensor | None:
    return torch.cat([tap.matrix for tap in taps]) if taps else None
