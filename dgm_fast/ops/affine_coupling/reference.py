"""Affine coupling in plain PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def affine_coupling(
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    *,
    scale_map: str = "exp",
    bound: float | None = None,
    min_scale: float = 0,
    mask: Tensor | None = None,
    part: str = "last",
    shift_first: bool = False,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the transformed x and the log-determinant of each sample's Jacobian."""
    x = x.to(torch.promote_types(x.dtype, shift.dtype))
    scale = log_s = None
    if log_scale is not None:
        scale, log_s = scale_of(log_scale.to(x.dtype), scale_map, bound, min_scale)

    return transform(x, scale, log_s, shift.to(x.dtype), mask, part, shift_first, inverse)


def scale_of(
    u: Tensor, scale_map: str, bound: float | None, min_scale: float
) -> tuple[Tensor, Tensor]:
    """Return the scale that a map gives to `u`, and its logarithm."""
    if scale_map in ("sigmoid", "softplus") and min_scale > 0:
        scale = torch.sigmoid(u + 2) if scale_map == "sigmoid" else -F.logsigmoid(-u)
        scale = scale + min_scale
        log_s = scale.log()
    else:
        log_s = _log_of_scale(u, scale_map, bound)
        scale = log_s.exp()

    if scale_map == "softplus" and bound is not None:
        return scale.clamp(max=math.exp(bound)), log_s.clamp(max=bound)

    return scale, log_s


def _log_of_scale(u: Tensor, scale_map: str, bound: float | None) -> Tensor:
    match scale_map:
        case "exp":
            return u
        case "tanh":
            return bound * (u / bound).tanh()
        case "scaled_tanh":
            return bound * u.tanh()
        case "atan":
            return bound * 0.636 * u.atan()
        case "soft_clip":
            return u / (1 + (u / bound).abs())
        case "sigmoid":
            return F.logsigmoid(u + 2)
        case "reciprocal_sigmoid":
            return -F.logsigmoid(u + 2)
        case _:
            # softplus: far below 0 it is e^u, which underflows before its logarithm does.
            return torch.where(u < -30, u, (-F.logsigmoid(-u.clamp(min=-30))).log())


def transform(
    x: Tensor,
    scale: Tensor | None,
    log_s: Tensor | None,
    shift: Tensor,
    mask: Tensor | None,
    part: str,
    shift_first: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Scale and shift the moved channels of x; no scale is a scale of one."""
    still = x.shape[1] - shift.shape[1] if x.ndim > 1 else 0
    moved = x
    if still > 0:
        start = still if part == "last" else 0
        moved = x.narrow(1, start, shift.shape[1])

    y = _affine(moved, scale, shift, shift_first, inverse)
    if mask is not None:
        y = torch.where(mask, moved, y)
        log_s = None if log_s is None else torch.where(mask, 0.0, log_s)

    # Without a scale, an empty sum: zeros that autograd knows.
    rows = _rows(y)[:, :0] if log_s is None else _rows(log_s)
    dtype = torch.promote_types(x.dtype, torch.float32)
    log_det = rows.sum(1, dtype=dtype)

    if still > 0:
        kept = x.narrow(1, 0 if part == "last" else shift.shape[1], still)
        y = torch.cat((kept, y) if part == "last" else (y, kept), dim=1)

    return y, -log_det if inverse else log_det


def _affine(
    x: Tensor, scale: Tensor | None, shift: Tensor, shift_first: bool, inverse: bool
) -> Tensor:
    if scale is None:
        return x - shift if inverse else x + shift

    if inverse:
        return x / scale - shift if shift_first else (x - shift) / scale

    return scale * (x + shift) if shift_first else scale * x + shift


def _rows(values: Tensor) -> Tensor:
    # Not -1: a reshape cannot infer it where there are no samples.
    return values.reshape(values.shape[0], math.prod(values.shape[1:]))
