"""Where a stream of samples stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["WaveNetState"]


@dataclass
class WaveNetState:
    """All that the samples to come depend on: what `WaveNetSampler` is given and gives back.

    It moves on by whole pieces, all of it at once: whatever interrupts one, it stands after the
    piece before, to be gone on with.

    Attributes:
        rings: (B, floats), the last inputs of each layer, one ring of (slots, channels) after
            another; the input of time t lies in slot t modulo their number.
        recent: (B, k), int64, the last levels, oldest first; -1 before the first.
        condition: (B or 1, layers 2 G), what the gates are given at all times: biases and labels.
        time: how many samples there have been.
    """

    rings: Tensor
    recent: Tensor
    condition: Tensor
    time: int = 0

    @property
    def batch(self) -> int:
        """B."""
        return self.rings.shape[0]

    def clone(self) -> WaveNetState:
        """Return a copy, from which a stream can go on in another way."""
        return replace(self, rings=self.rings.clone(), recent=self.recent.clone())

    def to(self, device: torch.device | str) -> WaveNetState:
        """Return the state on another device; kernels of CPUs and GPUs lay it out alike."""
        tensors = (each.to(device) for each in (self.rings, self.recent, self.condition))
        return WaveNetState(*tensors, self.time)
