"""Numbers of channels as kernels of samplers hold them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core.integers import ceil_div

__all__ = ["PAD", "pad_last", "padded"]

# Whole vectors of any instruction set.
PAD = 16


def padded(size: int) -> int:
    """Return a number of channels filled up to whole vectors."""
    return ceil_div(size, PAD) * PAD


def pad_last(x: Tensor) -> Tensor:
    """Fill the last dim up with zeros to whole vectors."""
    return F.pad(x, (0, padded(x.shape[-1]) - x.shape[-1])).contiguous()
