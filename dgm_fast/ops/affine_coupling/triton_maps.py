"""The scale maps inside Triton kernels.

Each function takes a tile of u and returns the factor, which is the scale s or its inverse, with
log s or d log s / du.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core import triton_math
from dgm_fast.ops.affine_coupling.op import SCALE_MAPS

_EXP = tl.constexpr(SCALE_MAPS.index("exp"))
_TANH = tl.constexpr(SCALE_MAPS.index("tanh"))
_SCALED_TANH = tl.constexpr(SCALE_MAPS.index("scaled_tanh"))
_ATAN = tl.constexpr(SCALE_MAPS.index("atan"))
_SOFT_CLIP = tl.constexpr(SCALE_MAPS.index("soft_clip"))
_RECIPROCAL_SIGMOID = tl.constexpr(SCALE_MAPS.index("reciprocal_sigmoid"))
_SOFTPLUS = tl.constexpr(SCALE_MAPS.index("softplus"))


@triton.jit
def factor_and_log_scale(
    u, bound, min_scale, MAP: tl.constexpr, HAS_MIN: tl.constexpr, INVERSE: tl.constexpr
):
    """Return the factor and log s."""
    if MAP <= _SOFT_CLIP:
        log_s = _log_scale(u, bound, MAP)
        factor = triton_math.exp(-log_s if INVERSE else log_s)
    elif MAP == _SOFTPLUS:
        s = triton_math.softplus(u) + min_scale
        log_s = triton_math.log(s)
        if not HAS_MIN:
            # Far below 0 softplus is e^u, which underflows before its logarithm does.
            log_s = tl.where(u < -30.0, u, log_s)
        log_s = tl.where(log_s > bound, bound, log_s)
        factor = _bounded(s, bound, INVERSE)
    else:
        v, e = _shifted(u)
        factor = _sigmoid_factor(v, e, min_scale, MAP, HAS_MIN, INVERSE)
        if HAS_MIN:
            log_s = triton_math.log(_sigmoid(v, e) + min_scale)
        else:
            log_s = tl.where(v < 0.0, v, 0.0) - triton_math.log1p_of_unit(e)
            if MAP == _RECIPROCAL_SIGMOID:
                log_s = -log_s

    return factor, log_s


@triton.jit
def factor_and_slope(
    u, bound, min_scale, MAP: tl.constexpr, HAS_MIN: tl.constexpr, INVERSE: tl.constexpr
):
    """Return the factor and d log s / du."""
    if MAP <= _SOFT_CLIP:
        log_s = _log_scale(u, bound, MAP)
        factor = triton_math.exp(-log_s if INVERSE else log_s)
        slope = _slope(u, bound, MAP)
    elif MAP == _SOFTPLUS:
        s = triton_math.softplus(u) + min_scale
        factor = _bounded(s, bound, INVERSE)
        slope = triton_math.sigmoid(u) / s
        if not HAS_MIN:
            slope = tl.where(u < -30.0, 1.0, slope)
        slope = tl.where(s > _largest(bound), 0.0, slope)
    else:
        v, e = _shifted(u)
        factor = _sigmoid_factor(v, e, min_scale, MAP, HAS_MIN, INVERSE)
        slope = _sigmoid(-v, e)  # 1 - sigmoid(v)
        if HAS_MIN:
            slope *= _sigmoid(v, e) / (_sigmoid(v, e) + min_scale)
        if MAP == _RECIPROCAL_SIGMOID:
            slope = -slope

    return factor, slope


@triton.jit
def _log_scale(u, bound, MAP: tl.constexpr):
    if MAP == _EXP:
        log_s = u
    elif MAP == _TANH:
        log_s = bound * triton_math.tanh(u / bound)
    elif MAP == _SCALED_TANH:
        log_s = bound * triton_math.tanh(u)
    elif MAP == _ATAN:
        log_s = (0.636 * bound) * triton_math.atan(u)
    else:
        log_s = u / (1.0 + tl.abs(u) / bound)

    return log_s


@triton.jit
def _slope(u, bound, MAP: tl.constexpr):
    if MAP == _EXP:
        slope = tl.full(u.shape, 1.0, tl.float32)
    elif MAP == _TANH:
        slope = _one_less_square_of_tanh(u / bound)
    elif MAP == _SCALED_TANH:
        slope = bound * _one_less_square_of_tanh(u)
    elif MAP == _ATAN:
        slope = (0.636 * bound) / (1.0 + u * u)
    else:
        share = 1.0 / (1.0 + tl.abs(u) / bound)
        slope = share * share

    return slope


@triton.jit
def _one_less_square_of_tanh(v):
    # With e = exp(-2 |v|) it is 4 e / (1 + e)^2, which keeps its digits where tanh is near 1.
    e = triton_math.exp(-2.0 * tl.abs(v))
    half = 2.0 / (1.0 + e)
    return half * half * e


@triton.jit
def _shifted(u):
    """Return v = u + 2 and exp(-|v|)."""
    v = u + 2.0
    return v, triton_math.exp(-tl.abs(v))


@triton.jit
def _sigmoid(v, e):
    return tl.where(v < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def _sigmoid_factor(
    v, e, min_scale, MAP: tl.constexpr, HAS_MIN: tl.constexpr, INVERSE: tl.constexpr
):
    DIVIDES: tl.constexpr = (MAP == _RECIPROCAL_SIGMOID) != INVERSE
    if HAS_MIN:
        s = _sigmoid(v, e) + min_scale
        factor = 1.0 / s if DIVIDES else s
    elif DIVIDES:
        factor = (1.0 + e) / tl.where(v < 0.0, e, 1.0)
    else:
        factor = _sigmoid(v, e)

    return factor


@triton.jit
def _largest(bound):
    """Return e^bound."""
    return triton_math.exp(tl.full((1, 1), bound, tl.float32))


@triton.jit
def _bounded(s, bound, INVERSE: tl.constexpr):
    """Return s, or 1 / s, where s is at most e^bound."""
    largest = _largest(bound)
    s = tl.where(s > largest, largest, s)
    return 1.0 / s if INVERSE else s
