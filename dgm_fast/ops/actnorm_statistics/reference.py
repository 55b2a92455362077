"""Statistics of channels in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def actnorm_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and sum of squared deviations of each channel, and the number of its elements."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    others = [dim for dim in range(x.ndim) if dim != 1]
    count = x.numel() // max(1, x.shape[1])

    x = x.to(dtype)
    mean = x.sum(others) / max(1, count)
    deviation = x - mean.reshape(-1, *[1] * (x.ndim - 2))
    return mean, deviation.square().sum(others), mean.new_full((), count)
