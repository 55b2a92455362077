"""`rational_quadratic_spline` in plain PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rational_quadratic_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None = None,
    derivatives: Tensor | None = None,
    *,
    bound: float = 3.0,
    tails: str | None = "linear",
    parametrization: str = "nflows",
    min_bin: float = 1e-3,
    min_derivative: float = 1e-3,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Map each element by its own spline, in float32 at least."""
    if heights is None or derivatives is None:
        widths, heights, derivatives = split_columns(widths, tails is None)

    dtype = torch.promote_types(x.dtype, torch.float32)
    given = x.to(dtype)
    limit = None if parametrization == "nflows" else abs(math.log(min_derivative))
    knots = (
        bin_knots(widths.to(dtype), bound, min_bin, limit),
        bin_knots(heights.to(dtype), bound, min_bin, limit),
        knot_slopes(derivatives.to(dtype), tails, min_derivative, limit),
    )

    index = bin_index(given, knots[1] if inverse else knots[0])
    ends = (end for each in knots for end in bin_ends(each, index, given))
    y, log_slope = map_in_bin(given, *ends, bound=bound, tails=tails, inverse=inverse)

    log_det = log_slope.sum(tuple(range(1, x.ndim))) if x.ndim > 1 else log_slope
    return y.to(x.dtype), log_det


def split_columns(parameters: Tensor, bounded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Split one tensor's columns into widths, heights and derivatives."""
    bins = bin_count(parameters.shape[-1], bounded)
    ends = 1 if bounded else -1
    widths, heights, derivatives = parameters.split((bins, bins, bins + ends), dim=-1)
    return widths, heights, derivatives


def bin_count(columns: int, bounded: bool) -> int:
    """Return how many bins have so many parameters: 3K + 1 bounded, 3K - 1 with linear tails."""
    return (columns - 1) // 3 if bounded else (columns + 1) // 3


def bin_knots(unconstrained: Tensor, bound: float, min_bin: float, limit: float | None) -> Tensor:
    """Return the K + 1 ends of K bins that share [-bound, bound]; the outermost are exact."""
    if limit is None:
        shares = min_bin + (1 - min_bin * unconstrained.shape[-1]) * F.softmax(unconstrained, -1)
    else:
        shares = F.softmax(soft_clip(unconstrained, limit / 2), -1)

    inner = 2 * shares.cumsum(-1)[..., :-1] - 1
    return bound * F.pad(F.pad(inner, (1, 0), value=-1.0), (0, 1), value=1.0)


def knot_slopes(
    unconstrained: Tensor, tails: str | None, min_derivative: float, limit: float | None
) -> Tensor:
    """Return the slope at each of the K + 1 knots."""
    if limit is None:
        slopes = min_derivative + F.softplus(unconstrained)
    else:
        slopes = soft_clip(unconstrained, limit).exp()

    return slopes if tails is None else F.pad(slopes, (1, 1), value=1.0)


def soft_clip(value: Tensor, limit: float) -> Tensor:
    """Return value / (1 + |value| / limit), between -limit and limit."""
    return value / (1 + value.abs() / limit)


def bin_index(given: Tensor, knots: Tensor) -> Tensor:
    """Return the bin of each element, (*, 1): the first and the last reach to infinity."""
    return (given[..., None] >= knots[..., 1:-1]).sum(-1, keepdim=True)


def bin_ends(knots: Tensor, index: Tensor, given: Tensor) -> tuple[Tensor, ...]:
    """Pick what belongs to the two ends of each element's bin."""
    knots = knots.expand(*given.shape, knots.shape[-1])
    return knots.gather(-1, torch.cat((index, index + 1), -1)).unbind(-1)


def map_in_bin(
    given: Tensor,
    x0: Tensor,
    x1: Tensor,
    y0: Tensor,
    y1: Tensor,
    d0: Tensor,
    d1: Tensor,
    *,
    bound: float,
    tails: str | None,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Map each element in its bin, or beyond the bound; return the log-slopes too."""
    beyond = given.abs() > bound
    inside = torch.where(beyond, bound * given.sign(), given)
    width, height = x1 - x0, y1 - y0
    mean_slope = height / width

    if inverse:
        theta, rest = _solve((inside - y0) / height, (y1 - inside) / height, mean_slope, d0, d1)
    else:
        theta, rest = (inside - x0) / width, (x1 - inside) / width

    # Sums of positive terms throughout: nothing cancels.
    square, cross = theta.square() + rest.square(), theta * rest
    denominator = mean_slope * square + (d0 + d1) * cross
    numerator = d1 * theta.square() + 2 * mean_slope * cross + d0 * rest.square()
    slope = numerator * (mean_slope / denominator).square()
    log_slope = slope.log()

    if inverse:
        y, slope, log_slope = x0 + theta * width, 1 / slope, -log_slope
    else:
        y = y0 + height * (mean_slope * theta.square() + d0 * cross) / denominator

    if tails is None:
        return y + slope * (given - inside), log_slope

    return torch.where(beyond, given, y), torch.where(beyond, 0.0, log_slope)


def _solve(
    rise: Tensor, fall: Tensor, mean_slope: Tensor, d0: Tensor, d1: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the place in a bin, as theta and 1 - theta, from the shares of height below and above.

    With z = theta / (1 - theta) the segment is s fall z^2 + b z - s rise = 0, where s is the mean
    slope and b = d0 fall - d1 rise. The discriminant is a sum of two squares, and of the two forms
    of the root the one is taken that adds.
    """
    b = d0 * fall - d1 * rise
    root = (b.square() + 4 * mean_slope.square() * rise * fall).sqrt()
    up = torch.where(b >= 0, 2 * mean_slope * rise, root - b)
    down = torch.where(b >= 0, root + b, 2 * mean_slope * fall)
    return up / (up + down), down / (up + down)
