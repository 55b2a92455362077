// Values drawn by inverting a cumulative distribution, by the rules of `distributions`; compiled
// once per instruction set, so without a guard.

#include "common/row_products.h"

namespace dgm::DGM_ISA {

namespace sampling {

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
  // Nor is it picked for that where its probability is zero.
  while (place > 0 && scratch[place] == 0.0f) --place;
  return place;
}

// The same of the values that may be drawn; uses the logits up.
static int64_t place_of(
    float* logits, int64_t count, const Filters& filters, float u, float* scratch) {
  if (filters.temperature == 0.0f || !filters.leave_out(count)) {
    return place_of(logits, count, filters.temperature, u, scratch);
  }
  filter(logits, count, filters, scratch);
  return place_of(logits, count, 1.0f, u, scratch);
}

// m + T s ln(u / (1 - u)).
[[maybe_unused]] static float logistic(float mean, float log_scale, float temperature, float u) {
  const float scale = temperature * exp(broadcast(log_scale))[0];
  const float logit = log(broadcast(u / (1.0f - u)))[0];
  // Of no width, an infinity is none.
  return mean + scale * std::min(std::max(logit, -100.0f), 100.0f);
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
