// Levels drawn of parameters, by the rules of `distributions`; compiled once per instruction set,
// so without a guard.

#include "wavenet_sampler/products.h"

namespace dgm::DGM_ISA {

namespace sampling {

using dgm::wavenet_sampler::Output;

static float largest(const float* x, int64_t count) {
  Vec most = load(x, count);
  for (int64_t i = kLanes; i < count; i += kLanes) most = at_least(most, load(x + i, count - i));
  float lanes[kLanes];
  store(lanes, most);
  for (int i = 1; i < kLanes; ++i) lanes[0] = std::max(lanes[0], lanes[i]);
  return lanes[0];
}

// The first place of the largest.
static int64_t place_of_largest(const float* x, int64_t count) {
  int64_t place = 0;
  for (int64_t i = 1; i < count; ++i) {
    if (x[i] > x[place]) place = i;
  }
  return place;
}

// The place whose stretch of the cumulative softmax holds u; `scratch` has room for whole vectors.
static int64_t place_of(
    const float* logits, int64_t count, float temperature, float u, float* scratch) {
  if (temperature == 0.0f) return place_of_largest(logits, count);

  const Vec over = broadcast(temperature), most = broadcast(largest(logits, count)) / over;
  double total = 0.0;
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec e = first(exp(load(logits + i, count - i) / over - most), count - i);
    store(scratch + i, e);
    total += sum(e);
  }

  // Ends at or below the uniform are passed, whole vectors first. Nothing is below a NaN.
  const double wanted = static_cast<double>(u) * total;
  double end = 0.0;
  int64_t place = 0;
  for (; place + kLanes < count; place += kLanes) {
    const double next = end + sum(load(scratch + place));
    if (!(next <= wanted)) break;
    end = next;
  }
  // Rounding can leave the last end below the uniform, hence the last place is not passed.
  for (; place + 1 < count; ++place) {
    end += scratch[place];
    if (!(end <= wanted)) break;
  }
  return place;
}

// (x + 1) (L - 1) / 2 to the nearest level, of x drawn by the inverse of a component's logistic.
static int64_t level_of_mixture(
    const Output& output, const float* parameters, const float* uniforms, float* scratch) {
  const int64_t K = output.outputs / 3;
  const int64_t k = place_of(parameters, K, output.temperature, uniforms[0], scratch);
  const float mean = parameters[K + k];
  const float log_scale = std::max(parameters[2 * K + k], output.lowest_log_scale);
  const float scale = output.temperature * exp(broadcast(log_scale))[0];
  const float u = uniforms[1], logit = log(broadcast(u / (1.0f - u)))[0];
  // Of no width, an infinity is none.
  const float x = mean + scale * std::min(std::max(logit, -100.0f), 100.0f);

  const float half = static_cast<float>(output.levels - 1) / 2.0f;
  const float place = __builtin_nearbyintf((x + 1.0f) * half);
  // Of NaN, the first level.
  return place > 0.0f ? std::min(static_cast<int64_t>(place), output.levels - 1) : 0;
}

static int64_t pick(
    const Output& output, const float* parameters, const float* uniforms, float* scratch) {
  if (output.mixture) return level_of_mixture(output, parameters, uniforms, scratch);
  return place_of(parameters, output.outputs, output.temperature, uniforms[0], scratch);
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
