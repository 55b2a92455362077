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

}  // namespace dgm::DGM_ISA
