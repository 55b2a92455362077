// The scale maps: from u to the factor, which is the scale or its inverse, and log s or d log s /
// du. Compiled once per instruction set, so without a guard.

#include "common/math.h"

namespace dgm::DGM_ISA {

using affine_coupling::Options;
using affine_coupling::ScaleMap;

// Changes the sign of a vector where a pass runs inverse.
struct Flip {
  VecWord sign;

  explicit Flip(bool inverse) : sign(VecWord{} + (inverse ? 0x80000000u : 0u)) {}
  DGM_INLINE_MEMBER Vec operator()(Vec v) const { return (Vec)((VecWord)v ^ sign); }
};

struct ExpMap {
  const Flip flip;

  explicit ExpMap(const Options& options) : flip(options.inverse) {}

  DGM_INLINE_MEMBER Vec log_scale(Vec u, Vec& log_s) const {
    log_s = u;
    return exp(flip(u));
  }
  DGM_INLINE_MEMBER Vec slope(Vec u, Vec& slope) const {
    slope = broadcast(1.0f);
    return exp(flip(u));
  }
};

// bound tanh(u / bound), or bound tanh u where scaled.
struct TanhMap {
  const Flip flip;
  const Vec bound, inner, outer;

  explicit TanhMap(const Options& options)
      : flip(options.inverse),
        bound(broadcast(options.bound)),
        inner(broadcast(options.map == ScaleMap::tanh ? options.bound : 1.0f)),
        outer(broadcast(options.map == ScaleMap::tanh ? 1.0f : options.bound)) {}

  DGM_INLINE_MEMBER Vec log_scale(Vec u, Vec& log_s) const {
    log_s = bound * tanh(u / inner);
    return exp(flip(log_s));
  }
  // With e = exp(2 |v|), tanh |v| = (e - 1) / (e + 1) and 1 - tanh^2 v = 4 e / (e + 1)^2, which
  // keeps its digits where tanh is near 1.
  DGM_INLINE_MEMBER Vec slope(Vec u, Vec& slope) const {
    const Vec v = u / inner;
    const Vec less_one = expm1(at_most(2.0f * absolute(v), broadcast(40.0f)));
    const Vec half = 2.0f / (less_one + 2.0f);
    slope = outer * (half * half * (less_one + 1.0f));
    return exp(flip(bound * with_sign_of(less_one / (less_one + 2.0f), v)));
  }
};

struct AtanMap {
  const Flip flip;
  const Vec factor;

  explicit AtanMap(const Options& options)
      : flip(options.inverse), factor(broadcast(0.636f * options.bound)) {}

  DGM_INLINE_MEMBER Vec log_scale(Vec u, Vec& log_s) const {
    log_s = factor * atan(u);
    return exp(flip(log_s));
  }
  DGM_INLINE_MEMBER Vec slope(Vec u, Vec& slope) const {
    slope = factor / (1.0f + u * u);
    return exp(flip(factor * atan(u)));
  }
};

struct SoftClipMap {
  const Flip flip;
  const Vec bound;

  explicit SoftClipMap(const Options& options)
      : flip(options.inverse), bound(broadcast(options.bound)) {}

  DGM_INLINE_MEMBER Vec log_scale(Vec u, Vec& log_s) const {
    log_s = u / (1.0f + absolute(u) / bound);
    return exp(flip(log_s));
  }
  DGM_INLINE_MEMBER Vec slope(Vec u, Vec& slope) const {
    const Vec share = 1.0f / (1.0f + absolute(u) / bound);
    slope = share * share;
    return exp(flip(u * share));
  }
};

// sigmoid(u + 2) + min_scale, or 1 / sigmoid(u + 2), whose inverse is the other's forward.
struct SigmoidMap {
  const bool is_reciprocal, divides;
  const float min_scale;

  explicit SigmoidMap(const Options& options)
      : is_reciprocal(options.map == ScaleMap::reciprocal_sigmoid),
        divides(options.inverse != is_reciprocal),
        min_scale(options.min_scale) {}

  // Of v = u + 2 and e = exp(-|v|).
  DGM_INLINE_MEMBER Vec sigmoid(Vec v, Vec e) const { return (v < 0.0f ? e : 1.0f) / (1.0f + e); }
  DGM_INLINE_MEMBER Vec factor(Vec v, Vec e) const {
    if (min_scale > 0.0f) {
      const Vec scale = sigmoid(v, e) + min_scale;
      return divides ? 1.0f / scale : scale;
    }
    return divides ? (1.0f + e) / (v < 0.0f ? e : 1.0f) : sigmoid(v, e);
  }

  DGM_INLINE_MEMBER Vec log_scale(Vec u, Vec& log_s) const {
    const Vec v = u + 2.0f, e = exp(-absolute(v));
    const Vec log_sigmoid = at_most(v, Vec{}) - log1p_of_unit(e);
    if (min_scale > 0.0f) {
      log_s = log(sigmoid(v, e) + min_scale);
    } else {
      log_s = is_reciprocal ? -log_sigmoid : log_sigmoid;
    }
    return factor(v, e);
  }
  DGM_INLINE_MEMBER Vec slope(Vec u, Vec& slope) const {
    const Vec v = u + 2.0f, e = exp(-absolute(v));
    const Vec rest = sigmoid(-v, e);  // 1 - sigmoid(v)
    slope = is_reciprocal ? -rest : rest;
    if (min_scale > 0.0f) slope *= sigmoid(v, e) / (sigmoid(v, e) + min_scale);
    return factor(v, e);
  }
};

// softplus(u) + min_scale, whose logarithm is at most the bound.
struct SoftplusMap {
  const bool divides;
  const Vec min_scale, bound, greatest;

  explicit SoftplusMap(const Options& options)
      : divides(options.inverse),
        min_scale(broadcast(options.min_scale)),
        bound(broadcast(options.bound)),
        greatest(broadcast(__builtin_expf(options.bound))) {}

  // Of u and e = exp(-|u|).
  DGM_INLINE_MEMBER Vec scale(Vec u, Vec e) const {
    return at_least(u, Vec{}) + log1p_of_unit(e) + min_scale;
  }
  DGM_INLINE_MEMBER Vec factor(Vec scale) const {
    const Vec bounded = at_most(scale, greatest);
    return divides ? 1.0f / bounded : bounded;
  }
  // Far below 0 softplus is e^u, which underflows before its logarithm does.
  DGM_INLINE_MEMBER VecInt is_exp(Vec u) const {
    return u < (min_scale > 0.0f ? -__builtin_inff() : -30.0f);
  }

  DGM_INLINE_MEMBER Vec log_scale(Vec u, Vec& log_s) const {
    const Vec s = scale(u, exp(-absolute(u)));
    log_s = at_most(is_exp(u) ? u : log(s), bound);
    return factor(s);
  }
  DGM_INLINE_MEMBER Vec slope(Vec u, Vec& slope) const {
    const Vec e = exp(-absolute(u)), s = scale(u, e);
    slope = (u < 0.0f ? e : 1.0f) / (1.0f + e) / s;
    slope = is_exp(u) ? 1.0f : slope;
    slope = s > greatest ? 0.0f : slope;
    return factor(s);
  }
};

struct NoMap {
  explicit NoMap(const Options&) {}

  DGM_INLINE_MEMBER Vec log_scale(Vec, Vec& log_s) const {
    log_s = Vec{};
    return broadcast(1.0f);
  }
  DGM_INLINE_MEMBER Vec slope(Vec, Vec& slope) const {
    slope = Vec{};
    return broadcast(1.0f);
  }
};

// From a block of u to the factors and, `second`, log s or d log s / du; whole vectors.
using Evaluate =
    void (*)(const Options& options, const float* u, int64_t count, float* factor, float* second);

template <typename Map, bool slope>
static void evaluate(
    const Options& options, const float* u, int64_t count, float* factor, float* second) {
  const Map map(options);
  for (int64_t i = 0; i < count; i += kLanes) {
    read_ahead(u + i);
    const Vec v = load(u + i);
    Vec other;
    store(factor + i, slope ? map.slope(v, other) : map.log_scale(v, other));
    store(second + i, other);
  }
}

template <bool slope>
static Evaluate evaluation(ScaleMap map) {
  switch (map) {
    case ScaleMap::exp:
      return evaluate<ExpMap, slope>;
    case ScaleMap::tanh:
    case ScaleMap::scaled_tanh:
      return evaluate<TanhMap, slope>;
    case ScaleMap::atan:
      return evaluate<AtanMap, slope>;
    case ScaleMap::soft_clip:
      return evaluate<SoftClipMap, slope>;
    case ScaleMap::sigmoid:
    case ScaleMap::reciprocal_sigmoid:
      return evaluate<SigmoidMap, slope>;
    case ScaleMap::softplus:
      return evaluate<SoftplusMap, slope>;
    default:
      return evaluate<NoMap, slope>;
  }
}

}  // namespace dgm::DGM_ISA
