"""The probability of a bin under a logistic inside Triton kernels; the README derives it."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dgm_fast._core import triton_math
from dgm_fast.ops.logistic_mixture_nll import reference

_HALF_BIN = tl.constexpr(reference.HALF_BIN)
_LOG_BIN = tl.constexpr(-4.848116364598481)  # ln (2 / 255)
_MIN_LOG_SCALE = tl.constexpr(reference.MIN_LOG_SCALE)
_EDGE = tl.constexpr(reference.EDGE)


class Bin(NamedTuple):
    """Of the logarithm of a bin's probability: its parts, and its derivatives.

    It is outside + ln(factor).
    """

    outside: Any
    factor: Any
    by_mean: Any
    by_log_scale: Any


@triton.jit
def bin_of(x, mean, given_log_scale):
    """Return what a logistic says of x; NaN stays."""
    is_first, is_last = x < -_EDGE, x > _EDGE
    is_held = given_log_scale < _MIN_LOG_SCALE
    log_scale = tl.where(is_held, _MIN_LOG_SCALE, given_log_scale)

    inverse = triton_math.exp(-log_scale)
    a, b = inverse * ((x - mean) + _HALF_BIN), inverse * ((x - mean) - _HALF_BIN)
    d = (2.0 * _HALF_BIN) * inverse
    e_a, e_b = triton_math.exp(-tl.abs(a)), triton_math.exp(-tl.abs(b))
    r_a, r_b = 1.0 / (1.0 + e_a), 1.0 / (1.0 + e_b)
    # Where d is small the series is exact to rounding; elsewhere nothing is divided by zero.
    is_small = d < 1e-3
    safe = tl.where(is_small, 1.0, d)
    share = tl.where(is_small, 1.0 - 0.5 * d, -triton_math.expm1(-safe) / safe)

    of_a, of_b = tl.where(a < 0.0, a, 0.0 * r_a), tl.where(b > 0.0, -b, 0.0 * r_b)
    inside = (_LOG_BIN - log_scale) + (of_a + of_b)
    outside = tl.where(is_first, of_a, tl.where(is_last, of_b, inside))
    factor = tl.where(is_first, r_a, tl.where(is_last, r_b, share * r_a * r_b))

    # sigmoid(-a) and sigmoid(b), zero where the bin has no such end.
    beyond_a = tl.where(is_last, 0.0, tl.where(a < 0.0, r_a, e_a * r_a))
    beyond_b = tl.where(is_first, 0.0, tl.where(b < 0.0, e_b * r_b, r_b))
    width = tl.where(is_first | is_last, 0.0, (1.0 - d * share) / share)
    by_mean = -inverse * (beyond_a - beyond_b)
    ends = tl.where(is_first, 0.0, b) * beyond_b - tl.where(is_last, 0.0, a) * beyond_a
    by_log_scale = tl.where(is_held, 0.0, ends - width)
    return Bin(outside, factor, by_mean, by_log_scale)
