"""The rational-quadratic segment of a bin, its inverse and its derivatives, in Triton.

With theta and rest = 1 - theta the place in a bin of sides w and h, s = h / w, t = theta rest:

    D = s (theta^2 + rest^2) + (d0 + d1) t          y = y0 + h (s theta^2 + d0 t) / D
    M = d1 theta^2 + 2 s t + d0 rest^2              slope = M (s / D)^2

All are sums of positive terms. Tiles have a number for each element, [BLOCK_E].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dgm_fast._core import triton_math


class Bin(NamedTuple):
    """What is at the two ends of each element's bin, or the gradients by it."""

    x0: Any
    x1: Any
    y0: Any
    y1: Any
    d0: Any
    d1: Any


@triton.jit
def map_in_bin(bin, given, bound, BOUNDED: tl.constexpr, INVERSE: tl.constexpr):
    """Return y (x where inverse) and the log-slope, beyond the bounds too."""
    inside = _clamped(given, bound)
    theta, rest = _place(bin, inside, INVERSE)
    s, over_D, M = _segment(bin, theta, rest)
    q = s * over_D
    slope = M * q * q
    log_slope = triton_math.log(slope)

    if INVERSE:
        result = bin.x0 + theta * (bin.x1 - bin.x0)
        log_slope, slope = -log_slope, 1.0 / slope
    else:
        share = (s * theta * theta + bin.d0 * theta * rest) * over_D
        result = bin.y0 + (bin.y1 - bin.y0) * share

    if BOUNDED:
        result += slope * (given - inside)
    else:
        beyond = tl.abs(given) > bound
        result = tl.where(beyond, given, result)
        log_slope = tl.where(beyond, 0.0, log_slope)

    return result, log_slope


@triton.jit
def gradients_by_bin(
    bin, given, grad_result, grad_log_slope, bound, BOUNDED: tl.constexpr, INVERSE: tl.constexpr
):
    """Return the gradient by what is given, and those by the ends of its bin.

    Of the inverse by the implicit function: an end of the bin moves x by -1 / slope of what it
    moves y, and what depends on x goes along.
    """
    inside = _clamped(given, bound)
    beyond = tl.abs(given) > bound
    grad, grad_slope = grad_result, grad_log_slope
    if not BOUNDED:
        # The identity of the tails has no parameters.
        grad = tl.where(beyond, 0.0, grad)
        grad_slope = tl.where(beyond, 0.0, grad_slope)

    theta, rest = _place(bin, inside, INVERSE)
    s, over_D, M = _segment(bin, theta, rest)
    over_M = 1.0 / M
    q = s * over_D
    slope, w = M * q * q, bin.x1 - bin.x0
    lean = rest - theta
    log_slope_by_theta = 2.0 * (
        (bin.d1 * theta - bin.d0 * rest + s * lean) * over_M
        - (bin.d0 + bin.d1 - 2.0 * s) * lean * over_D
    )

    # Beyond a bound the slope is constant.
    turn = tl.where(beyond, 0.0, grad_slope * log_slope_by_theta / w)
    over = given - inside
    if INVERSE:
        by_given = (grad - turn) / slope
        grad_y = -by_given
        by_theta = -grad * w
        grad_slope = -grad_slope
        over /= slope
    else:
        by_given = grad * slope + turn
        grad_y = grad
        by_theta = grad * slope * w + grad_slope * log_slope_by_theta

    by_bin = _gradients_at(bin, theta, rest, s, over_D, over_M, grad_y, grad_slope, by_theta)
    if BOUNDED:
        d0 = by_bin.d0 + tl.where(given < 0.0, grad_y * over, 0.0)
        d1 = by_bin.d1 + tl.where(given > 0.0, grad_y * over, 0.0)
        by_bin = Bin(by_bin.x0, by_bin.x1, by_bin.y0, by_bin.y1, d0, d1)
    else:
        by_given = tl.where(beyond, grad_result, by_given)

    return by_given, by_bin


@triton.jit
def _gradients_at(bin, theta, rest, s, over_D, over_M, grad_y, grad_slope, by_theta):
    """Return gradients of grad_y y + grad_slope log(slope), x held; by_theta is that by theta."""
    h, t, theta2, rest2 = bin.y1 - bin.y0, theta * rest, theta * theta, rest * rest
    share = (s * theta2 + bin.d0 * t) * over_D
    others = (s * rest2 + bin.d1 * t) * over_D
    pull = grad_y * h * t * over_D
    t_over_D = 2.0 * t * over_D

    s_by_s = pull * (s * over_D) * (bin.d1 * theta2 - bin.d0 * rest2) + grad_slope * (
        2.0 * s * t * over_M + (bin.d0 + bin.d1) * t_over_D
    )
    over_w, over_h = 1.0 / (bin.x1 - bin.x0), 1.0 / h
    return Bin(
        (s_by_s - rest * by_theta) * over_w,
        -(s_by_s + theta * by_theta) * over_w,
        grad_y * others - s_by_s * over_h,
        grad_y * share + s_by_s * over_h,
        pull * others + grad_slope * (rest2 * over_M - t_over_D),
        grad_slope * (theta2 * over_M - t_over_D) - pull * share,
    )


@triton.jit
def _clamped(given, bound):
    # NaN stays.
    return tl.where(given > bound, bound, tl.where(given < -bound, -bound, given))


@triton.jit
def _place(bin, given, INVERSE: tl.constexpr):
    """Return theta and rest of x, or of y where inverse.

    With z = theta / rest and the shares `rise` and `fall` of the height below and above y, the
    segment is s fall z^2 + b z - s rise = 0, b = d0 fall - d1 rise. The discriminant is a sum of
    two squares, and of the two forms of the root the one that adds is taken.
    """
    w = bin.x1 - bin.x0
    if INVERSE:
        h = bin.y1 - bin.y0
        over_h = 1.0 / h
        s = h / w
        rise, fall = (given - bin.y0) * over_h, (bin.y1 - given) * over_h
        b = bin.d0 * fall - bin.d1 * rise
        root = tl.sqrt(b * b + 4.0 * s * s * rise * fall)
        up = tl.where(b >= 0.0, 2.0 * s * rise, root - b)
        down = tl.where(b >= 0.0, root + b, 2.0 * s * fall)
        over = 1.0 / (up + down)
        theta, rest = up * over, down * over
    else:
        over_w = 1.0 / w
        theta, rest = (given - bin.x0) * over_w, (bin.x1 - given) * over_w

    return theta, rest


@triton.jit
def _segment(bin, theta, rest):
    """Return s, 1 / D and M."""
    s, t = (bin.y1 - bin.y0) / (bin.x1 - bin.x0), theta * rest
    theta2, rest2 = theta * theta, rest * rest
    over_D = 1.0 / (s * (theta2 + rest2) + (bin.d0 + bin.d1) * t)
    return s, over_D, bin.d1 * theta2 + 2.0 * s * t + bin.d0 * rest2
