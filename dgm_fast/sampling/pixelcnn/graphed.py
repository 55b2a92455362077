"""The cached loop where each row is the replay of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.graph import StepGraph
from dgm_fast.sampling.pixelcnn.eager import EagerLoop, Row, kept_at, runs
from dgm_fast.sampling.pixelcnn.plan import IN_STATE
from dgm_fast.sampling.pixelcnn.state import PixelState

__all__ = ["GraphedLoop"]

Step = Callable[..., tuple[Tensor, ...]]


class GraphedLoop(EagerLoop):
    """Draws as `EagerLoop` does, without its launches: on a GPU that the kernel does not run on.

    Attributes:
        capture: turns a row and its inputs into what replays it; plain calls, for a test.
    """

    capture: Callable[..., Step] = StepGraph

    # The last batch's.
    _rows: GraphedRows | None = None
    _captured: tuple[object, ...] = ()

    def draw_row(
        self,
        state: PixelState,
        row: int,
        given: Sequence[bool],
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> None:
        """Draw a row; one that is given to all goes through at once."""
        if all(given):
            super().draw_row(state, row, given, filters, parameters_out)
            return
        wanted = state.images.shape, state.condition.shape, filters
        if self._captured != wanted:
            self._captured, self._rows = (), None  # before another takes memory
            self._rows = GraphedRows(self, state, filters)
            self._captured = wanted
        self._rows.draw(state, row, parameters_out)


class GraphedRows:
    """Rows of a batch on tensors that stay.

    Rows differ in which strides they are multiples of, and there is a graph of each kind: what is
    kept of rows above is turned, so that a kind's lie in the same slots. Above the first row a
    graph sees the zeros with which a state begins.
    """

    def __init__(self, loop: EagerLoop, state: PixelState, filters: Filters) -> None:
        self.loop, self.filters = loop, filters
        places = loop.plan.places
        self.kept = [place for place in places if place.where == IN_STATE]
        self.kinds = max(place.stride for place in places)
        # Of a row that has all rows above that anyone looks at.
        self.first = self.kinds * max(place.rows for place in places)
        self.rows, self.condition = state.rows.clone(), state.condition.clone()
        self.replays: dict[int, Step] = {}

    def draw(self, state: PixelState, row: int, parameters_out: Tensor | None) -> None:
        """Draw a row of a state."""
        width = state.noise.shape[1] // state.images.shape[2]
        features = slice(row * width, (row + 1) * width)
        rows = slice(row, row + 1)
        inputs = state.images[:, :, rows], state.given[:, rows], state.noise[:, features]
        kind = row % self.kinds
        if kind not in self.replays:
            self.replays[kind] = self.loop.capture(partial(self._step, kind), *inputs)

        self._turn(state.rows, row, self.rows, self.first + kind)
        self.condition.copy_(state.condition)
        levels, parameters = self.replays[kind](*inputs)
        state.images[:, :, rows] = levels
        self._turn(self.rows, self.first + kind, state.rows, row)
        if parameters_out is not None:
            parameters_out[:, features] = parameters

    def _turn(self, source: Tensor, row: int, target: Tensor, to: int) -> None:
        """Copy what is kept where a row lies to where another would."""
        for place in self.kept:
            slots = to // place.stride - row // place.stride
            kept_at(place, target).copy_(kept_at(place, source).roll(slots, 1))

    def _step(self, kind: int, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        levels, row = images.clone(), self.first + kind
        each = self.loop.output.parameters // len(self.loop.draws)
        parameters = noise.new_empty(*noise.shape[:2], each)
        done = torch.tensor(row)
        state = PixelState(levels, given, noise, self.rows, self.condition, done)
        drawn = Row(self.loop, state, row, self.filters, parameters, first=row)
        drawn.draw(runs([False] * given.shape[2]))
        return levels, parameters
