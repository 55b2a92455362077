"""From unconstrained parameters to the ends of a bin, and gradients the way back, in Triton.

The parameters of an axis are a tile with a row for each element, [BLOCK_E, BLOCK_K], its columns
padded to a power of two. Knots are sums along rows; which bin an element is in is a count, and what
belongs to the bin is a sum of which one term is not zero. So no tile of knots or shares leaves the
registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dgm_fast._core import triton_math
from dgm_fast.ops.rational_quadratic_spline.triton_segment import Bin


class Scales(NamedTuple):
    """Constants of a parametrization.

    A knot is at -bound + number * least + spread * (sum of shares). Values are softly clipped at
    1 / softness, where zuko's they are.
    """

    bound: Any
    least: Any
    spread: Any
    min_derivative: Any
    softness: Any


class Axis(NamedTuple):
    """Bins' shares of an axis, as exponentials and one over their sum."""

    exponential: Any  # [BLOCK_E, BLOCK_K]
    over: Any  # [BLOCK_E]
    clip: Any  # [BLOCK_E, BLOCK_K], derivatives of what is softly clipped


class Found(NamedTuple):
    """Each element's bin, and the derivatives of its slopes by their parameters."""

    number: Any  # [BLOCK_E]
    bin: Any
    slope0: Any
    slope1: Any


@triton.jit
def axis_of(u, scales, K: tl.constexpr, ZUKO: tl.constexpr):
    """Return the axis that parameters u make."""
    clip = 1.0
    if ZUKO:
        over = 1.0 / (1.0 + tl.abs(u) * (2.0 * scales.softness))
        u, clip = u * over, over * over

    live = tl.arange(0, u.shape[1])[None, :] < K
    largest = tl.max(tl.where(live, u, float("-inf")), axis=1)[:, None]
    exponential = tl.where(live, triton_math.exp(u - largest), 0.0)
    return Axis(exponential, 1.0 / tl.sum(exponential, axis=1), clip)


@triton.jit
def find_ends(a, b, given, scales, K: tl.constexpr):
    """Return the number of the bin whose part of axis a holds `given`, and its ends on a and b."""
    k = tl.arange(0, a.exponential.shape[1])[None, :]
    lift = (k + 1).to(tl.float32) * scales.least - scales.bound
    tops = tl.cumsum(a.exponential, axis=1) * (scales.spread * a.over)[:, None] + lift

    # The last bin's top is the bound, and the first and the last reach to infinity.
    entered = (given[:, None] >= tops) & (k < K - 1)
    number = tl.sum(entered.to(tl.int32), axis=1)
    is_in, is_below = k == number[:, None], k == number[:, None] - 1
    a0 = tl.sum(tl.where(is_below, tops, 0.0), axis=1)
    a1 = tl.sum(tl.where(is_in, tops, 0.0), axis=1)

    below = tl.sum(tl.where(k < number[:, None], b.exponential, 0.0), axis=1)
    within = tl.sum(tl.where(is_in, b.exponential, 0.0), axis=1)
    lift = number.to(tl.float32) * scales.least - scales.bound
    b0 = below * (scales.spread * b.over) + lift
    b1 = (below + within) * (scales.spread * b.over) + (lift + scales.least)

    is_first, is_last = number == 0, number == K - 1
    a0, b0 = tl.where(is_first, -scales.bound, a0), tl.where(is_first, -scales.bound, b0)
    a1, b1 = tl.where(is_last, scales.bound, a1), tl.where(is_last, scales.bound, b1)
    return number, a0, a1, b0, b1


@triton.jit
def slope_of(u, scales, ZUKO: tl.constexpr):
    """Return the slope at a knot, and its derivative."""
    if ZUKO:
        over = 1.0 / (1.0 + tl.abs(u) * scales.softness)
        slope = triton_math.exp(u * over)
        derivative = slope * over * over
    else:
        tail = triton_math.exp(-tl.abs(u))
        derivative = tl.where(u >= 0.0, 1.0, tail) / (1.0 + tail)
        # NaN stays.
        softplus = tl.where(u < 0.0, 0.0, u) + triton_math.log1p_of_unit(tail)
        slope = scales.min_derivative + softplus

    return slope, derivative


@triton.jit
def constrained(
    number,
    x0,
    x1,
    y0,
    y1,
    u0,
    u1,
    scales,
    K: tl.constexpr,
    ZUKO: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Return the bin with the slopes that u0 and u1 make; those at linear tails are 1."""
    d0, slope0 = slope_of(u0, scales, ZUKO)
    d1, slope1 = slope_of(u1, scales, ZUKO)
    if not BOUNDED:
        d0 = tl.where(number == 0, 1.0, d0)
        d1 = tl.where(number == K - 1, 1.0, d1)

    return Found(number, Bin(x0, x1, y0, y1, d0, d1), slope0, slope1)


@triton.jit
def gradients_of_shares(axis, number, low, high, by_low, by_high, scales, K: tl.constexpr):
    """Return the gradients of an axis' parameters from those of its bin's ends, low and high.

    That of a share is p_i (a_i - sum_j p_j a_j), where a_i is the sum of the gradients of the
    knots above bin i. Only two knots have one, so that a - its mean has one value below the bin,
    one in it and one above.
    """
    # Places less the bins' least sizes, from 0 to spread; the outermost knots do not move.
    lift = scales.bound - number.to(tl.float32) * scales.least
    low, high = low + lift, high + (lift - scales.least)
    by_high = tl.where(number == K - 1, 0.0, by_high)

    above_high = by_high * (scales.spread - high)
    below = ((by_low * (scales.spread - low) + above_high) * axis.over)[:, None]
    within = ((above_high - by_low * low) * axis.over)[:, None]
    above = (-(by_low * low + by_high * high) * axis.over)[:, None]

    k, number = tl.arange(0, axis.exponential.shape[1])[None, :], number[:, None]
    factor = tl.where(k < number, below, tl.where(k == number, within, above))
    return axis.exponential * factor * axis.clip


@triton.jit
def gradients_of_slopes(found, by_d0, by_d1, BOUNDED: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the gradients of the derivatives' parameters, [BLOCK_E, BLOCK_N]."""
    # Linear tails have no parameter for the first knot.
    knot = tl.arange(0, BLOCK_N)[None, :] + (0 if BOUNDED else 1)
    number = found.number[:, None]
    first, last = (by_d0 * found.slope0)[:, None], (by_d1 * found.slope1)[:, None]
    return tl.where(knot == number, first, tl.where(knot == number + 1, last, 0.0))
