// Elementary functions without branches or calls, so that loops over them vectorise.
//
// Compiled once per instruction set, so without a guard.

#include "common/vec.h"

namespace dgm::DGM_ISA {

// ln x for 0 < x <= 1, normal numbers only. x = 2^e m with m in [sqrt(1/2), sqrt(2)); with
// s = (m - 1) / (m + 1), |s| <= 0.1716, ln m = 2 atanh s = 2 (s + s^3/3 + s^5/5 + ...). Cut after
// s^9 the series errs by less than 2 s^11 / 11 < 7e-10, far below half an ulp of ln m's terms.
DGM_INLINE float log_of_unit(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  // Subtracting sqrt(1/2)'s bits makes the exponent field round at sqrt(1/2), not at 1.
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  bits -= static_cast<uint32_t>(exponent) << 23;
  float m;
  __builtin_memcpy(&m, &bits, sizeof(m));

  const float f = m - 1.0f, s = f / (2.0f + f), z = s * s;
  const float series =
      z * (0x1.555556p-1f + z * (0.4f + z * (0x1.24924ap-2f + z * 0x1.c71c72p-3f)));
  const float e = static_cast<float>(exponent);
  // ln m = f - s (f - series), exact to rounding near m = 1; ln 2 in two parts keeps e ln 2 exact.
  return e * 0x1.62e4p-1f + (f - (s * (f - series) - e * 0x1.7f7d1cp-20f));
}

// (cos, sin) of 2 pi t for |t| <= 1/2 turns. q = round(4 t) quarter turns leave |r| <= 1/8 turn,
// exactly; the Taylor polynomials of sin and cos in (2 pi r)^2 <= 0.617 err by less than 3e-9.
DGM_INLINE void cos_sin_of_turns(float t, float& cosine, float& sine) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const float shifted = 4.0f * t + 0x1.8p23f;
  int32_t quarter;
  __builtin_memcpy(&quarter, &shifted, sizeof(quarter));
  const float r = t - 0.25f * (shifted - 0x1.8p23f);

  const float y = r * 0x1.921fb6p+2f, z = y * y;
  const float s = y + y * z *
                          (-0x1.555556p-3f +
                           z * (0x1.111112p-7f + z * (-0x1.a01a02p-13f + z * 0x1.71de3ap-19f)));
  const float c =
      1.0f + z * (-0.5f + z * (0x1.555556p-5f + z * (-0x1.6c16c2p-10f + z * 0x1.a01a02p-16f)));

  const bool swap = (quarter & 1) != 0;
  const float a = swap ? s : c, b = swap ? c : s;
  cosine = ((quarter + 1) & 2) != 0 ? -a : a;
  sine = (quarter & 2) != 0 ? -b : b;
}

// The functions below take any float and give NaN for NaN; u = 2^-24 is half an ulp of 1.

// x 2^n for whole n, -252 <= n <= 254.
DGM_INLINE Vec times_power_of_two(Vec x, Vec n) {
#if DGM_VECTOR_BYTES == 64
  return (Vec)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
  // By two powers that are normal numbers.
  const VecInt power = __builtin_convertvector(n, VecInt), half = power >> 1;
  return x * (Vec)((half + 127) << 23) * (Vec)((power - half + 127) << 23);
#endif
}

// r = x - n ln 2 with |r| <= ln 2 / 2, for x held to [-104, 89], beyond which e^x is 0 or infinity;
// ln 2 in two parts so that n's product with the first is exact; n is x log2 e, rounded by adding
// 1.5 2^23.
DGM_INLINE Vec reduce_by_ln2(Vec x, Vec& n) {
  x = at_most(at_least(x, broadcast(-104.0f)), broadcast(89.0f));
  n = (x * 0x1.715476p+0f + 0x1.8p23f) - 0x1.8p23f;
  return (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
}

// p with e^r - 1 = r + r^2 p for |r| <= ln 2 / 2: Taylor's series to r^8 / 8!, whose rest is below
// 2^-31 r.
DGM_INLINE Vec expm1_tail(Vec r) {
  Vec p = r * 0x1.a01a02p-16f + 0x1.a01a02p-13f;
  p = r * p + 0x1.6c16c2p-10f;
  p = r * p + 0x1.111112p-7f;
  p = r * p + 0x1.555556p-5f;
  p = r * p + 0x1.555556p-3f;
  return r * p + 0.5f;
}

DGM_INLINE Vec expm1_reduced(Vec r) { return r + r * r * expm1_tail(r); }

// e^x, within 3 u of it; infinity above 88.73, and where subnormals are zero, zero below -87.33.
DGM_INLINE Vec exp(Vec x) {
  Vec n;
  const Vec r = reduce_by_ln2(x, n);
  return times_power_of_two(1.0f + expm1_reduced(r), n);
}

// e^x - 1, within 4 u of it however small x is.
DGM_INLINE Vec expm1(Vec x) {
  Vec n;
  const Vec r = reduce_by_ln2(x, n);
  const Vec one = times_power_of_two(broadcast(1.0f), n);
  return times_power_of_two(expm1_reduced(r), n) + (one - 1.0f);
}

// ln x, within 3 u of it (log_of_unit derives it): -infinity at 0, NaN below.
DGM_INLINE Vec log(Vec x) {
  // Subnormals, where they are not zero, become normal.
  const Vec scaled = x < 0x1p-126f ? x * 0x1p23f : x;
  const VecInt lift = x < 0x1p-126f ? VecInt{} + 23 : VecInt{};

  const VecInt exponent = ((VecInt)scaled - 0x3f3504f3) >> 23;
  const Vec m = (Vec)((VecInt)scaled - (exponent << 23));
  const Vec f = m - 1.0f, s = f / (2.0f + f), z = s * s;
  const Vec series = z * (0x1.555556p-1f + z * (0.4f + z * (0x1.24924ap-2f + z * 0x1.c71c72p-3f)));
  const Vec e = __builtin_convertvector(exponent - lift, Vec);
  Vec y = e * 0x1.62e4p-1f + (f - (s * (f - series) - e * 0x1.7f7d1cp-20f));

  y = x == 0.0f ? broadcast(-__builtin_inff()) : y;
  y = x < 0.0f ? broadcast(__builtin_nanf("")) : y;
  return x <= 0x1.fffffep+127f ? y : x + x;  // infinity and NaN stay
}

// ln(1 + x) for 0 <= x <= 1, within 3 u of it. With s = x / (2 + x) <= 1/3 it is 2 atanh s =
// 2 (s + s^3/3 + ...); the first term left out, 2 s^17 / 17, is below u/40 of it.
DGM_INLINE Vec log1p_of_unit(Vec x) {
  const Vec s = x / (2.0f + x), z = s * s;
  Vec p = z * 0x1.111112p-4f + 0x1.3b13b2p-4f;
  p = z * p + 0x1.745d18p-4f;
  p = z * p + 0x1.c71c72p-4f;
  p = z * p + 0x1.24924ap-3f;
  p = z * p + 0.2f;
  p = z * p + 0x1.555556p-2f;
  return 2.0f * (s + s * z * p);
}

// ln(1 + e^x), within 5 u of it, also far below 0.
DGM_INLINE Vec softplus(Vec x) {
  const Vec tail = log1p_of_unit(exp(-absolute(x)));
  return at_least(x, Vec{}) + tail;
}

// ln sigmoid(x) = -softplus(-x).
DGM_INLINE Vec log_sigmoid(Vec x) { return -softplus(-x); }

// 1 / (1 + e^-x), within 5 u of it on both sides of 0.
DGM_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// tanh x = (e^2x - 1) / (e^2x + 1), within 8 u of it however small x is.
DGM_INLINE Vec tanh(Vec x) {
  const Vec t = expm1(at_most(2.0f * absolute(x), broadcast(40.0f)));
  return with_sign_of(t / (t + 2.0f), x);
}

// erf x, within 4 u of it however small x is, as 1 - e^(-a q(a)) of a = |x|: q is smooth, here the
// polynomial fitted on [0, 3.92], which errs by less than 5e-9 of erf; beyond, erf rounds to 1.
DGM_INLINE Vec erf(Vec x) {
  const Vec a = at_most(absolute(x), broadcast(3.92f));
  Vec q = a * -0x1.36980cp-17f + 0x1.ed6dc2p-14f;
  q = a * q - 0x1.4bca84p-11f;
  q = a * q + 0x1.b500d2p-10f;
  q = a * q - 0x1.5063b2p-13f;
  q = a * q - 0x1.39cdc2p-6f;
  q = a * q + 0x1.a4fa5ep-4f;
  q = a * q + 0x1.45f2fap-1f;
  q = a * q + 0x1.20dd76p+0f;
  return with_sign_of(absolute(expm1(-a * q)), x);
}

// atan x, within 4 u of it. With t the smaller of |x| and 1/|x|, and above tan(pi/8) from there
// atan t = pi/4 + atan((t - 1) / (t + 1)), the series' argument is at most 0.4143, and the first
// term left out, 0.4143^18 / 19, is below u/8.
DGM_INLINE Vec atan(Vec x) {
  const Vec a = absolute(x);
  const VecInt inverted = a > 1.0f;
  const Vec t = inverted ? 1.0f / a : a;
  const VecInt far = t > 0x1.a8279ap-2f;
  const Vec w = far ? (t - 1.0f) / (t + 1.0f) : t, z = w * w;

  Vec p = z * 0x1.e1e1e2p-5f - 0x1.111112p-4f;
  p = z * p + 0x1.3b13b2p-4f;
  p = z * p - 0x1.745d18p-4f;
  p = z * p + 0x1.c71c72p-4f;
  p = z * p - 0x1.24924ap-3f;
  p = z * p + 0.2f;
  p = z * p - 0x1.555556p-2f;
  const Vec near = w + w * z * p;

  const Vec unit = far ? 0x1.921fb6p-1f + near : near;
  return with_sign_of(inverted ? 0x1.921fb6p+0f - unit : unit, x);
}

}  // namespace dgm::DGM_ISA
