// Functions of what a pixel has, and its levels, by the rules of `distributions` as in maps.h and
// picks.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/block_draws.h"
#include "pixel_sampler/problem.h"

namespace dgm::pixel_sampler {

using blocks::sigmoid;

// A NaN stays in all of these.
DGM_HOST_DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }
DGM_HOST_DEVICE float elu(float x) { return x > 0.0f ? x : expm1f(x); }

// Float i of a function of x, whose halves or signs lie one after another.
DGM_HOST_DEVICE float mapped(int kind, const float* x, int floats, int i) {
  switch (kind) {
    case kRelu:
      return relu(x[i]);
    case kElu:
      return elu(x[i]);
    case kConcatElu:
      return elu(i < floats ? x[i] : -x[i - floats]);
    case kGate:
      return tanhf(x[i]) * sigmoid(x[floats / 2 + i]);
    default:
      return x[i] * sigmoid(x[floats / 2 + i]);
  }
}

// How many logits one place is drawn of, or 0: of levels, or of a mixture's components.
DGM_HOST_DEVICE int logits_of(const Output& o) {
  if (o.distribution == Distribution::bernoulli) return 0;
  if (o.distribution == Distribution::categorical) return static_cast<int>(o.outputs);
  const int64_t kinds = o.at_once == 3 ? 3 : 2;
  return static_cast<int>(o.outputs / (1 + o.at_once * kinds));
}

DGM_HOST_DEVICE float binary(float logit, float temperature, float u) {
  if (temperature == 0.0f) return logit > 0.0f ? 1.0f : 0.0f;
  return u < sigmoid(logit / temperature) ? 1.0f : 0.0f;
}

// (x + 1) (L - 1) / 2 to the nearest level; a NaN stays.
DGM_HOST_DEVICE float level_of(float x, int64_t levels) {
  const float top = static_cast<float>(levels - 1);
  const float level = nearbyintf((x + 1.0f) * (top / 2.0f));
  return level < 0.0f ? 0.0f : level > top ? top : level;
}

// A level as the network sees it.
DGM_HOST_DEVICE float encode(float level, int64_t levels) {
  return level / (static_cast<float>(levels - 1) / 2.0f) - 1.0f;
}

// All channels of component k, each given those before.
template <typename Uniform>
DGM_HOST_DEVICE void levels_of_component(
    const Output& o, const float* parameters, int k, const Uniform& uniform, float* levels) {
  const int K = logits_of(o), kinds = o.at_once == 3 ? 3 : 2;
  const auto of = [&](int channel, int kind) {
    return parameters[K + (channel * kinds + kind) * K + k];
  };

  float seen[3] = {};
  for (int c = 0; c < o.at_once; ++c) {
    float mean = of(c, 0);
    if (c == 1) mean += tanhf(of(0, 2)) * seen[0];
    if (c == 2) mean += tanhf(of(1, 2)) * seen[0] + tanhf(of(2, 2)) * seen[1];
    const float temperature = o.filters.temperature;
    const float x =
        blocks::logistic(mean, of(c, 1), o.lowest_log_scale, temperature, uniform(1 + c));
    levels[c] = level_of(x, o.levels);
    seen[c] = encode(levels[c], o.levels);
  }
}

}  // namespace dgm::pixel_sampler
