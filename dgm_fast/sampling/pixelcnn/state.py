"""Where a batch of images stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgm_fast.sampling.noise import AnyNoise, drawn

__all__ = ["PixelState"]


@dataclass(frozen=True)
class PixelState:
    """Images that are being drawn: what `PixelSampler` is given and moves on, row by row.

    A row counts as done when all of it is. Whatever interrupts one before leaves the state as it
    was at its beginning, to be gone on with.

    Attributes:
        images: (B, C, H, W), levels; rows not done yet hold given pixels and anything else.
        given: (B, H, W), bool, the pixels that are kept as they are.
        noise: (B, D, N), of all pixels, as the output's `draw_noise` makes it; for a GPU's kernel,
            which draws it where it uses it, the `SeededNoise`.
        rows: (B, floats), the last rows of what the network will look back on.
        condition: (B or 1, floats), biases and what labels add to them.
        done: (), int64 on the CPU, how many rows of the images are done.
    """

    images: Tensor
    given: Tensor
    noise: AnyNoise
    rows: Tensor
    condition: Tensor
    done: Tensor

    @property
    def batch(self) -> int:
        """B."""
        return self.images.shape[0]

    def clone(self) -> PixelState:
        """Return a copy, from which the images can go on in another way."""
        moving = {name: getattr(self, name).clone() for name in ("images", "rows", "done")}
        return replace(self, **moving)

    def to(self, device: torch.device | str) -> PixelState:
        """Return the state on another device; all implementations lay it out alike."""
        names = ("images", "given", "noise", "rows", "condition")
        moved = {name: getattr(self, name).to(device) for name in names}
        if moved["images"].device.type == "cpu":
            # Once, and not for every piece of the images.
            moved["noise"] = drawn(moved["noise"])
        # Images that go on apart count their rows apart.
        done = self.done if moved["images"] is self.images else self.done.clone()
        return replace(self, **moved, done=done)
