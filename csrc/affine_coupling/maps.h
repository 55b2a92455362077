// The scale maps: from u to the factor, which is the scale or its inverse, and log s, or to the
// factor and d log s / du. Compiled once per instruction set, so without a guard.

#include "common/math.h"

namespace dgm::DGM_ISA {

using affine_coupling::Options;

// Changes the sign of a vector where a pass runs inverse.
struct Flip {
  VecWord sign;

  explicit Flip(bool inverse) : sign(VecWord{} + (inverse ? 0x80000000u : 0u)) {}
  DGM_INLINE_MEMBER Vec operator()(Vec v) const { return (Vec)((VecWord)v ^ sign); }
};

struct ExpMap {
  static constexpr bool kIsConstant = false;
  const Flip flip;

  explicit ExpMap(const Options& options) : flip(options.inverse) {}

  DGM_INLINE_MEMBER Vec forward(Vec u, Vec& log_s) const {
    log_s = u;
    return exp(flip(u));
  }
  DGM_INLINE_MEMBER Vec backward(Vec u, Vec& slope) const {
    slope = broadcast(1.0f);
    return exp(flip(u));
  }
};

// bound tanh(u / bound), or bound tanh u.
struct TanhMap {
  static constexpr bool kIsConstant = false;
  const Flip flip;
  const Vec bound, inner, outer;

  TanhMap(const Options& options, bool scaled)
      : flip(options.inverse),
        bound(broadcast(options.bound)),
        inner(broadcast(scaled ? 1.0f : options.bound)),
        outer(broadcast(scaled ? options.bound : 1.0f)) {}

  DGM_INLINE_MEMBER Vec forward(Vec u, Vec& log_s) const {
    log_s = bound * tanh(u / inner);
    return exp(flip(log_s));
  }
  // With e = exp(2 |v|), tanh v = (e - 1) / (e + 1) and 1 - tanh^2 = 4 e / (e + 1)^2, which keeps
  // its digits where tanh is near 1.
  DGM_INLINE_MEMBER Vec backward(Vec u, Vec& slope) const {
    const Vec v = u / inner;
    const Vec less_one = expm1(at_most(2.0f * absolute(v), broadcast(40.0f)));
    const Vec half = 2.0f / (less_one + 2.0f);
    slope = outer * (half * half * (less_one + 1.0f));
    return exp(flip(bound * with_sign_of(less_one / (less_one + 2.0f), v)));
  }
};

struct AtanMap {
  static constexpr bool kIsConstant = false;
  const Flip flip;
  const Vec factor;

  explicit AtanMap(const Options& options)
      : flip(options.inverse), factor(broadcast(static_cast<float>(0.636 * options.bound))) {}

  DGM_INLINE_MEMBER Vec forward(Vec u, Vec& log_s) const {
    log_s = factor * atan(u);
    return exp(flip(log_s));
  }
  DGM_INLINE_MEMBER Vec backward(Vec u, Vec& slope) const {
    slope = factor / (1.0f + u * u);
    return exp(flip(factor * atan(u)));
  }
};

struct SoftClipMap {
  static constexpr bool kIsConstant = false;
  const Flip flip;
  const Vec bound;

  explicit SoftClipMap(const Options& options)
      : flip(options.inverse), bound(broadcast(options.bound)) {}

  DGM_INLINE_MEMBER Vec forward(Vec u, Vec& log_s) const {
    log_s = u / (1.0f + absolute(u) / bound);
    return exp(flip(log_s));
  }
  DGM_INLINE_MEMBER Vec backward(Vec u, Vec& slope) const {
    const Vec share = 1.0f / (1.0f + absolute(u) / bound);
    slope = share * share;
    return exp(flip(u / (1.0f + absolute(u) / bound)));
  }
};

// sigmoid(u + 2) + min_scale, or 1 / sigmoid(u + 2), whose inverse is the other's forward.
struct SigmoidMap {
  static constexpr bool kIsConstant = false;
  const bool divides, is_reciprocal;
  const Vec min_scale;

  SigmoidMap(const Options& options, bool reciprocal)
      : divides(options.inverse != reciprocal),
        is_reciprocal(reciprocal),
        min_scale(broadcast(options.min_scale)) {}

  DGM_INLINE_MEMBER Vec forward(Vec u, Vec& log_s) const {
    const Vec v = u + 2.0f, e = exp(-absolute(v));
    const Vec one_more = 1.0f + e;
    if (min_scale[0] == 0.0f) {
      const Vec log_sigmoid = at_most(v, Vec{}) - log1p_of_unit(e);
      log_s = is_reciprocal ? -log_sigmoid : log_sigmoid;
      return divides ? (v < 0.0f ? one_more / e : one_more) : (v < 0.0f ? e : 1.0f) / one_more;
    }
    const Vec scale = (v < 0.0f ? e : 1.0f) / one_more + min_scale;
    log_s = log(scale);
    return divides ? 1.0f / scale : scale;
  }

  DGM_INLINE_MEMBER Vec backward(Vec u, Vec& slope) const {
    const Vec v = u + 2.0f, e = exp(-absolute(v));
    const Vec one_more = 1.0f + e;
    const Vec below = (v < 0.0f ? 1.0f : e) / one_more;  // 1 - sigmoid
    if (min_scale[0] == 0.0f) {
      slope = is_reciprocal ? -below : below;
      return divides ? (v < 0.0f ? one_more / e : one_more) : (v < 0.0f ? e : 1.0f) / one_more;
    }
    const Vec sigmoid = (v < 0.0f ? e : 1.0f) / one_more, scale = sigmoid + min_scale;
    slope = sigmoid * below / scale;
    return divides ? 1.0f / scale : scale;
  }
};

// softplus(u) + min_scale, whose logarithm is at most the bound.
struct SoftplusMap {
  static constexpr bool kIsConstant = false;
  const bool divides;
  const Vec min_scale, bound, greatest;

  explicit SoftplusMap(const Options& options)
      : divides(options.inverse),
        min_scale(broadcast(options.min_scale)),
        bound(broadcast(options.bound)),
        greatest(broadcast(__builtin_expf(options.bound))) {}

  // e = exp(-|u|) serves the softplus and its derivative.
  DGM_INLINE_MEMBER Vec scale(Vec u, Vec e) const {
    return at_least(u, Vec{}) + log1p_of_unit(e) + min_scale;
  }
  // Far below 0 softplus is e^u, which underflows before its logarithm does.
  DGM_INLINE_MEMBER VecInt is_exp(Vec u) const { return min_scale == 0.0f ? u < -30.0f : VecInt{}; }

  DGM_INLINE_MEMBER Vec forward(Vec u, Vec& log_s) const {
    const Vec s = scale(u, exp(-absolute(u)));
    log_s = at_most(is_exp(u) ? u : log(s), bound);
    const Vec bounded = at_most(s, greatest);
    return divides ? 1.0f / bounded : bounded;
  }
  DGM_INLINE_MEMBER Vec backward(Vec u, Vec& slope) const {
    const Vec e = exp(-absolute(u)), s = scale(u, e);
    slope = (u < 0.0f ? e : 1.0f) / (1.0f + e) / s;
    slope = is_exp(u) ? 1.0f : slope;
    slope = s > greatest ? Vec{} : slope;
    const Vec bounded = at_most(s, greatest);
    return divides ? 1.0f / bounded : bounded;
  }
};

struct NoMap {
  static constexpr bool kIsConstant = true;

  DGM_INLINE_MEMBER Vec forward(Vec, Vec& log_s) const {
    log_s = Vec{};
    return broadcast(1.0f);
  }
  DGM_INLINE_MEMBER Vec backward(Vec, Vec& slope) const {
    slope = Vec{};
    return broadcast(1.0f);
  }
};

// Calls f with the map that the options name.
template <typename F>
static void with_map(const Options& options, const F& f) {
  using affine_coupling::ScaleMap;
  switch (options.map) {
    case ScaleMap::exp:
      return f(ExpMap(options));
    case ScaleMap::tanh:
    case ScaleMap::scaled_tanh:
      return f(TanhMap(options, options.map == ScaleMap::scaled_tanh));
    case ScaleMap::atan:
      return f(AtanMap(options));
    case ScaleMap::soft_clip:
      return f(SoftClipMap(options));
    case ScaleMap::sigmoid:
    case ScaleMap::reciprocal_sigmoid:
      return f(SigmoidMap(options, options.map == ScaleMap::reciprocal_sigmoid));
    case ScaleMap::softplus:
      return f(SoftplusMap(options));
    default:
      return f(NoMap());
  }
}

}  // namespace dgm::DGM_ISA
