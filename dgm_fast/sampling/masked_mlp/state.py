"""How far a sweep has come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MaskedState"]


@dataclass
class MaskedState:
    """All that the features to come depend on: what `MaskedSampler` moves on, in place.

    Attributes:
        x: (B, D), of features already drawn and of given ones their values.
        given: (B, D) bool, True for features that keep their value in x, or None.
        context: (B, C), or None.
        levels: (B, units), what hidden units hold, level by level in the order of the layout; of
            units that are not finished, anything.
        log_det: (B,), of a flow the sum of log |dx/dy| of the features so far.
        step: how many features are done; the next is that of place step + 1.
    """

    x: Tensor
    given: Tensor | None
    context: Tensor | None
    levels: Tensor
    log_det: Tensor
    step: int = 0

    @property
    def batch(self) -> int:
        """B."""
        return self.x.shape[0]

    def clone(self) -> MaskedState:
        """Return a copy, from which a sweep can go on in another way."""
        log_det = self.log_det.clone()
        levels = self.levels.clone()
        return MaskedState(self.x.clone(), self.given, self.context, levels, log_det, self.step)

    def to(self, device: torch.device | str) -> MaskedState:
        """Return the state on another device; kernels of CPUs and GPUs lay it out alike."""
        tensors = (self.x, self.given, self.context, self.levels, self.log_det)
        moved = [None if each is None else each.to(device) for each in tensors]
        state = MaskedState(*moved, self.step)
        # Sweeps that go on apart move their own.
        return state.clone() if state.x is self.x else state
