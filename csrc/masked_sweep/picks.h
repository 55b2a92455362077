// Features made of their parameters, by the rules of `distributions` and of flows, and activations;
// lanes are samples. Compiled once per instruction set, so without a guard.

#include "rational_quadratic_spline/group.h"

namespace dgm::DGM_ISA {

namespace sweep {

using masked_sweep::Activation;
using masked_sweep::Kind;
using masked_sweep::Step;

// A row of numbers for each parameter, `pitch` apart.
struct Parameters {
  const float* data;
  int64_t pitch;

  DGM_INLINE_MEMBER Vec operator[](int64_t i) const { return load(data + i * pitch); }
};

DGM_INLINE Vec finite_or(Vec x, Vec otherwise) {
  return absolute(x) <= 0x1.fffffep+127f ? x : otherwise;
}

static bool any(VecInt lanes) {
  int found = 0;
  for (int i = 0; i < kLanes; ++i) found |= lanes[i];
  return found != 0;
}

static Vec largest_of(Parameters logits, int64_t count) {
  Vec most = logits[0];
  for (int64_t i = 1; i < count; ++i) most = at_least(most, logits[i]);
  return most;
}

// The number of the first largest.
DGM_INLINE VecInt place_of_largest(Parameters logits, int64_t count) {
  Vec most = logits[0];
  VecInt place{};
  for (int64_t i = 1; i < count; ++i) {
    const Vec next = logits[i];
    place = next > most ? VecInt{} + static_cast<int>(i) : place;
    most = next > most ? next : most;
  }
  return place;
}

// A sum and what rounding took from it (Knuth's two-sum).
struct Sum {
  Vec sum{}, rest{};

  DGM_INLINE_MEMBER void add(Vec x) {
    const Vec next = sum + x, taken = next - sum;
    rest += (sum - (next - taken)) + (x - taken);
    sum = next;
  }
  DGM_INLINE_MEMBER Vec value() const { return sum + rest; }
};

// Leaves exp(logit / temperature), the largest's being 1, and returns their sum.
static Vec exponentials_of(
    Parameters logits, int64_t count, float temperature, float* exponentials) {
  const Vec over = broadcast(temperature), most = largest_of(logits, count) / over;
  Sum total;
  for (int64_t i = 0; i < count; ++i) {
    const Vec e = exp(logits[i] / over - most);
    store(exponentials + i * kLanes, e);
    total.add(e);
  }
  return total.value();
}

// The lowest logit such that what all larger ones weigh is not enough: goes down from the largest.
template <typename Weight>
static Vec lowest_of(Parameters logits, int64_t count, Vec enough, const Weight& weight) {
  const Vec none = broadcast(-INFINITY);
  Vec lowest = largest_of(logits, count);
  Sum weights;
  for (;;) {
    Vec equal{}, next = none;
    for (int64_t i = 0; i < count; ++i) {
      const Vec logit = logits[i];
      equal += logit == lowest ? weight(i) : Vec{};
      next = logit < lowest ? at_least(next, logit) : next;
    }
    weights.add(equal);
    const VecInt stays = (weights.value() < enough) & (next > none);
    if (!any(stays)) return lowest;
    lowest = stays ? next : lowest;
  }
}

// Leaves no exponential of a logit below the lowest that stays; returns the sum.
static Vec drop_below(Vec lowest, Parameters logits, int64_t count, float* exponentials) {
  Sum total;
  for (int64_t i = 0; i < count; ++i) {
    const Vec e = logits[i] < lowest ? Vec{} : load(exponentials + i * kLanes);
    store(exponentials + i * kLanes, e);
    total.add(e);
  }
  return total.value();
}

// Leaves exponentials of values that may be drawn: first of the k likeliest, then of the nucleus.
static Vec leave_out(
    Parameters logits, int64_t count, const Filters& filters, Vec total, float* exponentials) {
  if (filters.top_k > 0 && filters.top_k < count) {
    const Vec k = broadcast(static_cast<float>(filters.top_k)), one = broadcast(1.0f);
    const Vec lowest = lowest_of(logits, count, k, [&](int64_t) { return one; });
    total = drop_below(lowest, logits, count, exponentials);
  }
  if (filters.top_p < 1.0) {
    const Vec enough = static_cast<float>(filters.top_p) * total;
    const Vec lowest = lowest_of(
        logits, count, enough, [&](int64_t i) { return load(exponentials + i * kLanes); });
    total = drop_below(lowest, logits, count, exponentials);
  }
  return total;
}

// The place whose stretch of the cumulative softmax holds u; `scratch` has room for all.
static VecInt place_of(
    Parameters logits, int64_t count, const Filters& filters, Vec u, float* scratch) {
  if (filters.temperature == 0.0f) return place_of_largest(logits, count);

  const Vec all = exponentials_of(logits, count, filters.temperature, scratch);
  // Ends at or below the uniform are passed. Nothing is below a NaN.
  const Vec wanted = u * leave_out(logits, count, filters, all, scratch);
  Sum end;
  VecInt place{}, last{};
  for (int64_t i = 0; i < count; ++i) {
    const Vec e = load(scratch + i * kLanes);
    end.add(e);
    place -= end.value() <= wanted;
    last = e == 0.0f ? last : VecInt{} + static_cast<int>(i);
  }
  // Rounding can leave the last end below the uniform, hence the last that is not zero stays.
  return place < last ? place : last;
}

DGM_INLINE Vec gaussian(const Step& step, Vec mean, Vec log_scale, Vec noise) {
  return mean + step.filters.temperature * exp(log_scale) * noise;
}

static Vec bernoulli(const Step& step, Parameters p, Parameters noise) {
  const Vec zero{}, one = broadcast(1.0f);
  if (step.filters.temperature == 0.0f) return p[0] > 0.0f ? one : zero;
  return noise[0] < sigmoid(p[0] / step.filters.temperature) ? one : zero;
}

static Vec logistic(const Step& step, Parameters p, Parameters noise) {
  const Vec u = noise[0], log_scale = at_least(p[1], broadcast(step.lowest_log_scale));
  Vec x = p[0];
  // Of no width, an infinity is none.
  if (step.filters.temperature > 0.0f)
    x += step.filters.temperature * exp(log_scale) * log(u / (1.0f - u));
  const float top = static_cast<float>(step.levels - 1);
  x = at_most(at_least((x + 1.0f) * (top / 2.0f), Vec{}), broadcast(top));
  return (x + 0x1.8p23f) - 0x1.8p23f;
}

static Vec mixture(
    const Step& step, Parameters p, int64_t components, Parameters noise, float* scratch) {
  const VecInt place = place_of(p, components, step.filters, noise[0], scratch);
  Vec mean{}, log_scale{};
  for (int k = 0; k < components; ++k) {
    mean = place == k ? p[components + k] : mean;
    log_scale = place == k ? p[2 * components + k] : log_scale;
  }
  return gaussian(step, mean, log_scale, noise[1]);
}

static Vec affine(const Step& step, Parameters p, Vec y, Vec& log_slope) {
  const Vec log_scale = step.bound * tanh(p[0] / step.bound);
  log_slope = step.standardize ? log_scale : -log_scale;
  return step.standardize ? y * exp(log_scale) + p[1] : (y - p[1]) * exp(-log_scale);
}

// Makes features of one vector of samples after another.
class Picker {
 public:
  Picker(const Step& step, int64_t parameters)
      : step_(step), parameters_(parameters), group_(step.spline), scratch_(parameters * kLanes) {}

  Vec operator()(Parameters p, Parameters noise, Vec& log_slope) {
    log_slope = Vec{};
    switch (step_.kind) {
      case Kind::bernoulli:
        return bernoulli(step_, p, noise);
      case Kind::categorical: {
        float* const scratch = scratch_.data();
        return __builtin_convertvector(
            place_of(p, parameters_, step_.filters, noise[0], scratch), Vec);
      }
      case Kind::logistic:
        return logistic(step_, p, noise);
      case Kind::gaussian:
        return gaussian(step_, p[0], p[1], noise[0]);
      case Kind::gaussian_mixture:
        return mixture(step_, p, parameters_ / 3, noise, scratch_.data());
      case Kind::affine:
        return affine(step_, p, noise[0], log_slope);
      default:
        return bend(p, noise, log_slope);
    }
  }

 private:
  Vec bend(Parameters p, Parameters y, Vec& log_slope) {
    float* const tile = group_.tile(0);
    for (int64_t i = 0; i < parameters_; ++i) store(tile + i * kLanes, p[i]);
    constrain_shares(group_, 0);
    alignas(64) float given[kLanes], x[kLanes], log_slopes[kLanes];
    store(given, y[0]);
    find_bins<false>(group_, given, 1);
    map_group(group_, given, 1, x, log_slopes);
    log_slope = load(log_slopes);
    return load(x);
  }

  const Step& step_;
  const int64_t parameters_;
  Group group_;
  Buffer scratch_;
};

// 1 - erf(x) to 1.2e-7 of it (Press et al., "Numerical Recipes", erfcc).
DGM_INLINE Vec erfc(Vec x) {
  const Vec a = absolute(x), t = 1.0f / (1.0f + 0.5f * a);
  Vec p = t * 0.17087277f - 0.82215223f;
  p = t * p + 1.48851587f;
  p = t * p - 1.13520398f;
  p = t * p + 0.27886807f;
  p = t * p - 0.18628806f;
  p = t * p + 0.09678418f;
  p = t * p + 0.37409196f;
  p = t * p + 1.00002368f;
  p = t * p - 1.26551223f;
  const Vec tail = t * exp(p - a * a);
  return x < 0.0f ? 2.0f - tail : tail;
}

DGM_INLINE Vec activate(Activation activation, Vec x) {
  switch (activation) {
    case Activation::relu:
      return at_least(x, Vec{});
    case Activation::elu:
      return x > 0.0f ? x : expm1(x);
    case Activation::gelu:
      return 0.5f * x * erfc(x * -0.70710678f);
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::softplus:
      // As torch has it.
      return x > 20.0f ? x : softplus(x);
    case Activation::sigmoid:
      return sigmoid(x);
    default:
      return tanh(x);
  }
}

}  // namespace sweep

}  // namespace dgm::DGM_ISA
