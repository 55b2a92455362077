"""Activation normalization in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def actnorm(
    x: Tensor, log_scale: Tensor, shift: Tensor, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the scaled and shifted x and the log-determinant of each sample's Jacobian."""
    x = x.to(torch.promote_types(x.dtype, shift.dtype))
    # From (C,) to (C, 1, ...), to be broadcast over what follows the channels.
    inner = x.shape[2:]
    scale_, shift_ = (
        each.to(x.dtype).reshape(-1, *[1] * len(inner)) for each in (log_scale, shift)
    )
    y = x * (-scale_).exp() - shift_ if inverse else (x + shift_) * scale_.exp()

    total = log_scale.sum(dtype=torch.promote_types(x.dtype, torch.float32))
    log_det = (math.prod(inner) * total).expand(x.shape[0])
    return y, -log_det if inverse else log_det
