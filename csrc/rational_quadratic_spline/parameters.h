// From unconstrained parameters to the ends of a bin, and gradients the way back, for a tile: rows
// of kLanes numbers, K widths, K heights and K - 1 or K + 1 derivatives. Compiled once per
// instruction set, so without a guard.

#include "rational_quadratic_spline/bin.h"

namespace dgm::DGM_ISA {

// Constants of a parametrization: a knot is at -bound + number * least + spread * (sum of shares).
struct Scales {
  explicit Scales(const spline::Options& o)
      : bound(o.bound),
        least(o.zuko ? 0.0f : 2.0f * o.bound * o.min_bin),
        spread(o.zuko ? 2.0f * o.bound : 2.0f * o.bound * (1.0f - o.min_bin * o.bins)),
        min_derivative(o.min_derivative),
        softness(o.zuko ? -1.0f / static_cast<float>(std::log(double{o.min_derivative})) : 0.0f) {}

  float bound, least, spread, min_derivative;
  float softness;  // one over the limit that values are softly clipped at; 0: they are not
};

// e^x for x <= 0 within 2 u, and 0 where it is below 2e-38. Taylor's series to r^7 / 7! errs by
// less than u / 10 where |r| <= ln 2 / 2.
DGM_INLINE Vec exp_of_nonpositive(Vec x) {
  const Vec shifted = x * 0x1.715476p+0f + 0x1.8p23f;
  const Vec whole = shifted - 0x1.8p23f;
  const Vec r = (x - whole * 0x1.62e4p-1f) - whole * 0x1.7f7d1cp-20f;

  Vec p = r * 0x1.a01a02p-13f + 0x1.6c16c2p-10f;
  p = r * p + 0x1.111112p-7f;
  p = r * p + 0x1.555556p-5f;
  p = r * p + 0x1.555556p-3f;
  p = r * p + 0.5f;
  p = r * p + 1.0f;
  p = r * p + 1.0f;
  // The whole power lies in the low bits of `shifted`, and goes to the exponent.
  const Vec power = (Vec)((VecInt)p + ((VecInt)shifted << 23));
  return x < -87.0f ? Vec{} : power;
}

// e^x for x <= 0, for sums that have e^0 among their terms: within 1.5 u of it and |x| / 4 units
// more, by which log2 e is off in float, and which are less than a tenth of u of such a sum. The
// polynomial is fitted to 2^f and errs by u / 30 where |f| <= 1/2. Below -87 it is that of -87.
DGM_INLINE Vec exp_of_share(Vec x) {
  x = at_least(x, broadcast(-87.0f));
  const Vec shifted = x * 0x1.715476p+0f + 0x1.8p23f;
  const Vec f = x * 0x1.715476p+0f - (shifted - 0x1.8p23f);

  Vec p = f * 0x1.41d334p-13f + 0x1.5f456ap-10f;
  p = f * p + 0x1.3b2dbcp-7f;
  p = f * p + 0x1.c6aed4p-5f;
  p = f * p + 0x1.ebfbdap-3f;
  p = f * p + 0x1.62e43p-1f;
  p = f * p + 1.0f;
  return (Vec)((VecInt)p + ((VecInt)shifted << 23));
}

// Replaces rows u by u / (1 + |u| softness); writes the derivatives where asked to.
DGM_INLINE void clip_softly(float* rows, int64_t count, float softness, float* derivatives) {
  for (int64_t i = 0; i < count * kLanes; i += kLanes) {
    const Vec u = load(rows + i), over = 1.0f / (1.0f + absolute(u) * softness);
    store(rows + i, u * over);
    if (derivatives != nullptr) store(derivatives + i, over * over);
  }
}

// Replaces rows u by e^(u - largest); returns their sum.
template <int kBins>
DGM_INLINE Vec exponentials(float* rows, int64_t bins) {
  Vec largest = load(rows);
#pragma GCC unroll 16
  for (int64_t i = 1; i < bins; ++i) largest = at_least(load(rows + i * kLanes), largest);

  Vec sum{};
#pragma GCC unroll 16
  for (int64_t i = 0; i < bins; ++i) {
    const Vec e = exp_of_share(load(rows + i * kLanes) - largest);
    store(rows + i * kLanes, e);
    sum += e;
  }
  return sum;
}

// The slope at a knot, and its derivative where gradients follow.
template <bool kGradients>
DGM_INLINE Vec slope_of(const Scales& scales, Vec u, Vec& derivative) {
  if (scales.softness > 0.0f) {
    const Vec over = 1.0f / (1.0f + absolute(u) * scales.softness);
    const Vec slope = exp(u * over);
    if (kGradients) derivative = slope * over * over;
    return slope;
  }

  const Vec tail = exp_of_nonpositive(-absolute(u));
  if (kGradients) derivative = (u >= 0.0f ? broadcast(1.0f) : tail) / (1.0f + tail);
  return scales.min_derivative + (at_least(u, Vec{}) + log1p_of_unit(tail));
}

// What turns exponentials into shares, and derivatives of slopes by their parameters.
struct Factors {
  Vec over_x, over_y, slope0, slope1;
};

// Finds the bin that holds `given` in a tile of exponentials; its slopes are still unconstrained.
template <int kBins>
DGM_INLINE Bin find_bin(
    const spline::Options& o, const Scales& scales, const float* tile, const Factors& factors,
    Vec given) {
  const int64_t bins = kBins > 0 ? kBins : o.bins;
  const float *const widths = tile, *const heights = tile + bins * kLanes;
  // The axis searched is a, the other one b.
  const float *const a = o.inverse ? heights : widths, *const b = o.inverse ? widths : heights;
  const Vec scale_a = scales.spread * (o.inverse ? factors.over_y : factors.over_x);
  const Vec scale_b = scales.spread * (o.inverse ? factors.over_x : factors.over_y);
  // Without tails row 0 is the first knot's slope, with them the second's.
  const float* const slopes = tile + (2 * bins - (o.bounded ? 0 : 1)) * kLanes;

  const Vec bound = broadcast(scales.bound);
  Vec a0 = -bound, b0 = -bound, a1 = bound, b1 = bound, low_a = a0, low_b = b0;
  Vec d0 = load(slopes), d1 = load(slopes + kLanes), number{}, sum_a{}, sum_b{};

#pragma GCC unroll 16
  for (int64_t i = 0; i < bins; ++i) {
    Vec high_a = bound, high_b = bound;
    if (i < bins - 1) {
      const float lift = static_cast<float>(i + 1) * scales.least - scales.bound;
      sum_a += load(a + i * kLanes);
      sum_b += load(b + i * kLanes);
      high_a = sum_a * scale_a + lift;
      high_b = sum_b * scale_b + lift;
    }
    if (i == 0) {
      a1 = high_a;
      b1 = high_b;
    } else {
      const VecInt entered = given >= low_a;
      a0 = entered ? low_a : a0;
      b0 = entered ? low_b : b0;
      a1 = entered ? high_a : a1;
      b1 = entered ? high_b : b1;
      d0 = entered ? load(slopes + i * kLanes) : d0;
      d1 = entered ? load(slopes + (i + 1) * kLanes) : d1;
      number = entered ? broadcast(static_cast<float>(i)) : number;
    }
    low_a = high_a;
    low_b = high_b;
  }
  if (o.inverse) return {b0, b1, a0, a1, d0, d1, number};
  return {a0, a1, b0, b1, d0, d1, number};
}

// Makes the slopes of a bin of its unconstrained ones.
template <bool kGradients>
DGM_INLINE void constrain_slopes(
    const spline::Options& o, const Scales& scales, Bin& bin, Factors& factors) {
  bin.d0 = slope_of<kGradients>(scales, bin.d0, factors.slope0);
  bin.d1 = slope_of<kGradients>(scales, bin.d1, factors.slope1);
  if (o.bounded) return;
  bin.d0 = bin.number == 0.0f ? broadcast(1.0f) : bin.d0;
  bin.d1 = bin.number == static_cast<float>(o.bins - 1) ? broadcast(1.0f) : bin.d1;
}

// Replaces exponentials e_i by the gradients of their parameters, p_i (a_i - sum_j p_j a_j) for
// shares p and a_i the gradients of the knots above bin i. Only two knots have one, so that a - its
// mean has one value below the bin, one in it and one above. `first` and `last` are those knots'
// gradients, low and high their places less the bins' least sizes, from 0 to `spread`.
struct ShareGradients {
  DGM_INLINE_MEMBER ShareGradients(Vec first, Vec last, Vec low, Vec high, float spread, Vec over)
      : below((first * (spread - low) + last * (spread - high)) * over),
        in((last * (spread - high) - first * low) * over),
        above(-(first * low + last * high) * over) {}

  Vec below, in, above;
};

// Replaces a tile's rows by gradients of the parameters.
template <int kBins>
DGM_INLINE void gradients_of_parameters(
    const spline::Options& o, const Scales& scales, const Bin& bin, const Factors& factors,
    const BinGradients& grad, const float* clips, float* tile) {
  const int64_t bins = kBins > 0 ? kBins : o.bins;
  const float bound = scales.bound, least = scales.least;
  // The outermost knots do not move; the first one's place is 0 in any case.
  const VecInt in_last = bin.number == static_cast<float>(bins - 1);
  const Vec low = bound - bin.number * least, high = low - least;
  const ShareGradients x(
      grad.x0, in_last ? Vec{} : grad.x1, bin.x0 + low, bin.x1 + high, scales.spread,
      factors.over_x);
  const ShareGradients y(
      grad.y0, in_last ? Vec{} : grad.y1, bin.y0 + low, bin.y1 + high, scales.spread,
      factors.over_y);

#pragma GCC unroll 16
  for (int64_t i = 0; i < bins; ++i) {
    const float number = static_cast<float>(i);
    float *const width = tile + i * kLanes, *const height = width + bins * kLanes;
    const VecInt below = bin.number > number, in = bin.number == number;
    Vec by_width = load(width) * (below ? x.below : in ? x.in : x.above);
    Vec by_height = load(height) * (below ? y.below : in ? y.in : y.above);
    if (clips != nullptr) {
      by_width *= load(clips + i * kLanes);
      by_height *= load(clips + (bins + i) * kLanes);
    }
    store(width, by_width);
    store(height, by_height);
  }

  const Vec first = grad.d0 * factors.slope0, last = grad.d1 * factors.slope1;
  float* slope = tile + 2 * bins * kLanes;
  const int64_t begin = o.bounded ? 0 : 1, end = o.bounded ? bins + 1 : bins;
#pragma GCC unroll 16
  for (int64_t i = begin; i < end; ++i, slope += kLanes) {
    const float number = static_cast<float>(i);
    const Vec at = bin.number == number ? first : Vec{};
    store(slope, bin.number == number - 1.0f ? last : at);
  }
}

}  // namespace dgm::DGM_ISA
