"""Elementary functions inside Triton kernels: exact to a few roundings, near 0 and far out.

Triton's own exp and log are the hardware's approximations, whose relative error grows with |x| and
near 1; libdevice, which has the others, is NVIDIA's alone. These need neither, give NaN for NaN,
and are the same polynomials as the C++ kernels' (`csrc/common/math.h` derives the bounds). An
error is counted in u = 2^-24, half an ulp of 1, relative to the result. Tiles are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp(x):
    """Return e^x, within 3 u; infinity above 88.73."""
    reduced, n = reduce_by_ln2(x)
    return times_power_of_two(1.0 + _expm1_reduced(reduced), n)


@triton.jit
def expm1(x):
    """Return e^x - 1, within 4 u."""
    reduced, n = reduce_by_ln2(x)
    one = times_power_of_two(tl.full(x.shape, 1.0, tl.float32), n)
    return times_power_of_two(_expm1_reduced(reduced), n) + (one - 1.0)


@triton.jit
def log(x):
    """Return ln x, within 3 u also near 1: -infinity at 0, NaN below."""
    # Subnormals become normal.
    small = x < 1.1754943508222875e-38
    scaled = tl.where(small, x * 8388608.0, x)
    lift = tl.where(small, 23.0, 0.0)

    # x = 2^e m with m in [sqrt(1/2), sqrt(2)): less sqrt(1/2)'s bits, the exponent rounds there.
    bits = scaled.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    e = exponent.to(tl.float32) - lift

    # ln m = 2 atanh s; ln 2 in two parts keeps its product with e exact.
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = 0.2857142984867096 + z * 0.2222222238779068
    series = 0.4000000059604645 + z * series
    series = z * (0.6666666865348816 + z * series)
    y = e * 0.693145751953125 + (f - (s * (f - series) - e * 1.428606765330187e-06))

    y = tl.where(x == 0.0, float("-inf"), y)
    y = tl.where(x < 0.0, float("nan"), y)
    return tl.where(x <= 3.4028234663852886e38, y, x + x)


@triton.jit
def log1p_of_unit(x):
    """Return ln(1 + x) for 0 <= x <= 1, within 3 u."""
    s = x / (2.0 + x)
    z = s * s
    p = 0.07692307978868484 + z * 0.06666667014360428
    p = 0.09090909361839294 + z * p
    p = 0.1111111119389534 + z * p
    p = 0.1428571492433548 + z * p
    p = 0.20000000298023224 + z * p
    p = 0.3333333432674408 + z * p
    return 2.0 * (s + s * z * p)


@triton.jit
def softplus(x):
    """Return ln(1 + e^x), within 5 u, far below 0 too."""
    return tl.where(x < 0.0, 0.0, x) + log1p_of_unit(exp(-tl.abs(x)))


@triton.jit
def log_sigmoid(x):
    """Return ln sigmoid(x), within 5 u, far above 0 too."""
    return -softplus(-x)


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x), within 6 u on both sides of 0."""
    return 1.0 / (1.0 + exp(-x))


@triton.jit
def tanh(x):
    """Return tanh x, within 8 u."""
    twice = 2.0 * tl.abs(x)
    t = expm1(tl.where(twice > 40.0, 40.0, twice))
    return _with_sign_of(t / (t + 2.0), x)


@triton.jit
def gate_gradients(above, a, b):
    """Return the gradients of a and b from that of tanh(a) sigmoid(b), within 32 u."""
    scale, p = _exp_below_0(-2.0 * tl.abs(a))
    e = scale + scale * p
    rest = (1.0 - scale) - scale * p  # 1 - e, with its digits where a is near 0
    scale, p = _exp_below_0(-tl.abs(b))
    return gradients_of_powers(above, a, b, e, rest, scale + scale * p)


@triton.jit
def gradients_of_powers(above, a, b, e, rest, f):
    """Return `gate_gradients` by e = exp(-2 |a|), rest = 1 - e and f = exp(-|b|).

    tanh |a| is (1 - e) / (1 + e), its slope 4 e / (1 + e)^2, which keeps its digits where tanh is
    near 1, and sigmoid's slope f / (1 + f)^2.
    """
    # Two instructions of a GPU, where a division is seven; within 6 u.
    root_e, root_f = tl.rsqrt(1.0 + e), tl.rsqrt(1.0 + f)
    over_e, over_f = root_e * root_e, root_f * root_f
    of_b = above * over_f
    small = f * of_b
    grad_a = tl.where(b < 0.0, small, of_b) * (over_e * (4.0 * (e * over_e)))
    grad_b = small * over_f * _with_sign_of(rest, a) * over_e
    return grad_a, grad_b


@triton.jit
def _exp_below_0(x):
    """Return s, p with e^x = s (1 + p) for x <= 0, within 3 u; s is 0 below -87.7."""
    x = tl.where(x < -88.0, -88.0, x)
    shifted, reduced = _reduce_by_ln2(x)
    # Integers end in the low bits, which a shift makes an exponent: of the lowest, of zero.
    bits = (shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000
    return bits.to(tl.float32, bitcast=True), _expm1_reduced(reduced)


@triton.jit
def atan(x):
    """Return atan x, within 5 u."""
    # The series takes |w| <= tan(pi/8), where two exchanges bring every x.
    a = tl.abs(x)
    inverted = a > 1.0
    t = tl.where(inverted, 1.0 / a, a)
    far = t > 0.41421356797218323
    w = tl.where(far, (t - 1.0) / (t + 1.0), t)
    z = w * w

    p = z * 0.05882352963089943 - 0.06666667014360428
    p = z * p + 0.07692307978868484
    p = z * p - 0.09090909361839294
    p = z * p + 0.1111111119389534
    p = z * p - 0.1428571492433548
    p = z * p + 0.20000000298023224
    p = z * p - 0.3333333432674408
    near = w + w * z * p

    unit = tl.where(far, 0.7853981852531433 + near, near)
    return _with_sign_of(tl.where(inverted, 1.5707963705062866 - unit, unit), x)


@triton.jit
def reduce_by_ln2(x):
    """Return r, n with x = r + n ln 2 and |r| <= ln 2 / 2, for x clamped to [-104, 89]."""
    x = tl.where(x > 89.0, 89.0, tl.where(x < -104.0, -104.0, x))
    shifted, reduced = _reduce_by_ln2(x)
    return reduced, shifted.to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def _reduce_by_ln2(x):
    # Adding 1.5 2^23 rounds to an integer and leaves it in the low bits.
    shifted = x * 1.4426950216293335 + 12582912.0
    whole = shifted - 12582912.0
    # ln 2 in two parts, so that the product with the first is exact.
    return shifted, (x - whole * 0.693145751953125) - whole * 1.428606765330187e-06


@triton.jit
def expm1_tail(r):
    """Return p, e^r - 1 = r + r^2 p, for |r| <= ln 2 / 2: Taylor's series but for 2^-31 r."""
    p = 0.00019841270113829523 + r * 2.4801587642286904e-05
    p = 0.0013888889225199819 + r * p
    p = 0.008333333767950535 + r * p
    p = 0.0416666679084301 + r * p
    p = 0.1666666716337204 + r * p
    return 0.5 + r * p


@triton.jit
def _expm1_reduced(r):
    return r + r * r * expm1_tail(r)


@triton.jit
def times_power_of_two(x, n):
    """Return x 2^n for -252 <= n <= 254, by two powers that are normal numbers."""
    half = n >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((n - half + 127) << 23).to(tl.float32, bitcast=True)
    return x * first * second


@triton.jit
def _with_sign_of(magnitude, sign):
    """Return `magnitude`, which is not negative, with the sign of `sign`."""
    bits = sign.to(tl.int32, bitcast=True) & -0x80000000
    return (magnitude.to(tl.int32, bitcast=True) | bits).to(tl.float32, bitcast=True)
