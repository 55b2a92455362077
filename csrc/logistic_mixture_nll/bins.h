// The probability of a bin under a logistic, and its derivatives; compiled once per instruction
// set, so without a guard.
//
// With a and b = a - d the ends of the bin, measured in scales from the mean, and n = 1 - e^-d,
//
//   ln (sigmoid(a) - sigmoid(b)) = ln n + ln sigmoid(a) + ln sigmoid(-b)
//                     = ln d + min(a, 0) + min(-b, 0) + ln [(n / d) / ((1 + e^-|a|) (1 + e^-|b|))].
//
// At x = -1 the bin reaches to minus infinity, and sigmoid(a) is left; at x = 1 sigmoid(-b) is. The
// quotient in brackets is kept as two numbers, which three channels multiply before one division
// and one logarithm: 1e-3 <= n <= 1 and d <= 8.7, as log-scales from -7 have it, leave both far
// from a float's ends.

#include "common/math.h"

namespace dgm::DGM_ISA {

constexpr float kHalfBin = 1.0f / 255.0f, kMinLogScale = -7.0f, kEdge = 0.999f;
constexpr float kLogBin = -0x1.36478ap+2f;  // ln (2 / 255)

struct Bin {
  Vec inverse, a, b, d, n;  // 1 / scale, the ends, the width, 1 - e^-d
  Vec over_a, over_b;       // 1 + e^-|a| and 1 + e^-|b|
  VecInt is_first, is_last, is_small;

  DGM_INLINE_MEMBER Bin(Vec x, Vec mean, Vec log_scale)
      : inverse(exp(-log_scale)),
        a(inverse * ((x - mean) + kHalfBin)),
        b(inverse * ((x - mean) - kHalfBin)),
        d(2.0f * kHalfBin * inverse),
        n(-expm1(-d)),
        over_a(1.0f + exp(-absolute(a))),
        over_b(1.0f + exp(-absolute(b))),
        is_first(x < -kEdge),
        is_last(x > kEdge),
        is_small(d < 1e-3f) {}

  // What is added outside the logarithm, and the quotient inside.
  DGM_INLINE_MEMBER Vec outside(Vec log_scale) const {
    const Vec of_a = at_most(a, Vec{}), of_b = at_most(-b, Vec{});
    const Vec inside = (kLogBin - log_scale) + (of_a + of_b);
    return is_first ? of_a : (is_last ? of_b : inside);
  }
  DGM_INLINE_MEMBER Vec numerator() const {
    // Where d is small n / d is 1 - d / 2 to rounding, and d may be zero.
    const Vec inside = is_small ? 1.0f - 0.5f * d : n;
    return is_first | is_last ? 1.0f : inside;
  }
  DGM_INLINE_MEMBER Vec denominator() const {
    const Vec inside = (is_small ? 1.0f : d) * (over_a * over_b);
    return is_first ? over_a : (is_last ? over_b : inside);
  }

  // The derivatives of the logarithm by the mean and by the log-scale:
  //   -(sigmoid(-a) - sigmoid(b)) / scale   and   b sigmoid(b) - a sigmoid(-a) - d / (e^d - 1),
  // where d / (e^d - 1) = d (1 - n) / n, and an end at infinity has no part.
  DGM_INLINE_MEMBER void differentiate(Vec& by_mean, Vec& by_log_scale) const {
    const Vec divisor = is_small ? 1.0f : n, over = over_a * over_b;
    const Vec reciprocal = 1.0f / (divisor * over), of_ends = reciprocal * divisor;
    const Vec beyond_a = of_ends * over_b * (a < 0.0f ? 1.0f : over_a - 1.0f);
    const Vec beyond_b = of_ends * over_a * (b < 0.0f ? over_b - 1.0f : 1.0f);
    const Vec of_a = is_last ? Vec{} : beyond_a, of_b = is_first ? Vec{} : beyond_b;
    by_mean = -inverse * (of_a - of_b);

    const Vec inside = is_small ? 1.0f - 0.5f * d : d * (1.0f - n) * (reciprocal * over);
    const Vec width = is_first | is_last ? Vec{} : inside;
    by_log_scale = (is_first ? Vec{} : b * of_b) - (is_last ? Vec{} : a * of_a) - width;
  }
};

}  // namespace dgm::DGM_ISA
