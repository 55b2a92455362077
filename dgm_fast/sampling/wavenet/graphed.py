"""The cached loop where each step is the replay of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.graph import StepGraph
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.wavenet.eager import EagerLoop
from dgm_fast.sampling.wavenet.state import WaveNetState

__all__ = ["GraphedLoop"]

Step = Callable[..., tuple[Tensor, ...]]


class GraphedLoop(EagerLoop):
    """Draws as `EagerLoop` does, without its launches: on a GPU that the kernel does not run on.

    Attributes:
        capture: turns a step and its inputs into what replays it; plain calls, for a test.
    """

    capture: Callable[..., Step] = StepGraph

    # The last batch's.
    _steps: GraphedSteps | None = None
    _captured: tuple[object, ...] = ()

    def go_on(
        self,
        state: WaveNetState,
        given: Tensor | None,
        noise: Tensor | None,
        features: Tensor | None,
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> tuple[Tensor, WaveNetState]:
        """Return the levels (B, n) drawn, and the state after them; `state` stays as it is."""
        first = noise if given is None else given
        if first.numel() == 0:
            return super().go_on(state, given, noise, features, filters, parameters_out)

        inputs = [first] if features is None else [first, features.transpose(1, 2)]
        steps = self._steps_of(state)
        replay = steps.replay(filters if given is None else None, [each[:, 0] for each in inputs])
        steps.take(state)
        levels = state.recent.new_empty(first.shape[:2])
        for t in range(first.shape[1]):
            levels[:, t], parameters = replay(*(each[:, t] for each in inputs))
            if parameters_out is not None and given is None:
                parameters_out[:, t] = parameters
        after = steps.after(state, first.shape[1])
        return (levels if given is None else levels[:, :0]), after

    def _steps_of(self, state: WaveNetState) -> GraphedSteps:
        wanted = state.rings.shape, state.condition.shape
        if self._captured != wanted:
            self._captured, self._steps = (), None  # before another takes memory
            self._steps = GraphedSteps(self, state)
            self._captured = wanted
        return self._steps


class GraphedSteps:
    """Steps of a batch on tensors that stay: its state, and where in the rings it is."""

    def __init__(self, loop: EagerLoop, state: WaveNetState) -> None:
        network, self.loop = loop.network, loop
        self.channels, taps = network.channels, network.kernel - 1
        slots = torch.tensor(network.slots, device=state.rings.device)
        self.width = padded(network.channels)
        self.begins = (slots.cumsum(0) - slots)[:, None]
        self.slots = slots[:, None]
        # Of each tap but the last, oldest first.
        self.ages = slots[:, None] // taps * torch.arange(taps, device=slots.device)
        self.now = torch.zeros_like(self.slots)
        self.rings, self.recent = state.rings.clone(), state.recent.clone()
        self.condition = state.condition.clone()
        self.replays: dict[Filters | None, Step] = {}

    def replay(self, filters: Filters | None, inputs: list[Tensor]) -> Step:
        """Return a step that draws levels, or, of no filters, takes those that are given.

        It maps noise (B, N), or levels (B,), and, where there are any, features (B, F) to levels
        (B,) and parameters (B, P), which the next call overwrites. Of given levels,
        parameters are empty. To capture it runs it: `take` a state only afterwards.
        """
        if filters not in self.replays:
            # Of those that draw, one stays: each takes memory.
            for other in [each for each in self.replays if None not in (each, filters)]:
                del self.replays[other]
            self.replays[filters] = self.loop.capture(partial(self._step, filters), *inputs)
        return self.replays[filters]

    def take(self, state: WaveNetState) -> None:
        """Go on from a state."""
        self.rings.copy_(state.rings)
        self.recent.copy_(state.recent)
        self.condition.copy_(state.condition)
        self.now.copy_(state.time % self.slots)

    def after(self, state: WaveNetState, steps: int) -> WaveNetState:
        """Return how far it got from a state."""
        moved = {"rings": self.rings.clone(), "recent": self.recent.clone()}
        return replace(state, time=state.time + steps, **moved)

    def _step(
        self, filters: Filters | None, first: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        loop, rings = self.loop, self.rings.unflatten(1, (-1, self.width))
        condition = self.condition
        if features is not None:
            condition = torch.addmm(condition, features, loop.features)

        places = self.begins + (self.now + self.ages) % self.slots  # (L, k - 1)
        pasts = rings[:, places.flatten(), : self.channels].unflatten(1, places.shape)
        below = (
            loop._encoded(self.recent),
            [layer.unbind(1) for layer in pasts.unbind(1)],
            loop._conditions(condition),
        )
        if filters is None:
            inputs, parameters, level = loop.go_up(*below)[0], first[:, None][:, :0], first
        else:
            inputs, parameters, level = loop.step(*below, first, filters)

        # In the place of the oldest, which has been read.
        rings[:, places[:, 0], : self.channels] = torch.stack(inputs, dim=1)
        self.recent.copy_(torch.cat([self.recent[:, 1:], level[:, None]], dim=1))
        self.now.add_(1).remainder_(self.slots)
        return level, parameters
