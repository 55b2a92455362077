// Levels of a pixel drawn of parameters, by the rules of `distributions`; compiled once per
// instruction set, so without a guard.

#include "pixel_sampler/maps.h"

namespace dgm::DGM_ISA {

namespace pixel_sampling {

using dgm::pixel_sampler::Distribution;
using dgm::pixel_sampler::Output;

static float binary(float logit, float temperature, float u) {
  if (temperature == 0.0f) return logit > 0.0f ? 1.0f : 0.0f;
  return u < sigmoid(broadcast(logit / temperature))[0] ? 1.0f : 0.0f;
}

// (x + 1) (L - 1) / 2 to the nearest level.
static float level_of(float x, int64_t levels) {
  const float top = static_cast<float>(levels - 1);
  return std::min(std::max(__builtin_nearbyintf((x + 1.0f) * (top / 2.0f)), 0.0f), top);
}

// A level as the network sees it.
static float encode(float level, int64_t levels) {
  return level / (static_cast<float>(levels - 1) / 2.0f) - 1.0f;
}

// A component of all channels, then each of these by its logistic's inverse, given those before.
static void mixture(
    const Output& o, const float* parameters, const float* uniforms, float* scratch,
    float* levels) {
  const bool colours = o.at_once == 3;
  const int64_t kinds = colours ? 3 : 2, K = o.outputs / (1 + o.at_once * kinds);
  const int64_t k = place_of(parameters, K, o.filters.temperature, uniforms[0], scratch);
  const auto of = [&](int64_t channel, int64_t kind) {
    return parameters[K + (channel * kinds + kind) * K + k];
  };

  float seen[3] = {};
  for (int64_t c = 0; c < o.at_once; ++c) {
    float mean = of(c, 0);
    if (c == 1) mean += tanh(broadcast(of(0, 2)))[0] * seen[0];
    if (c == 2) {
      mean += tanh(broadcast(of(1, 2)))[0] * seen[0] + tanh(broadcast(of(2, 2)))[0] * seen[1];
    }
    const float log_scale = std::max(of(c, 1), o.lowest_log_scale);
    levels[c] =
        level_of(logistic(mean, log_scale, o.filters.temperature, uniforms[1 + c]), o.levels);
    seen[c] = encode(levels[c], o.levels);
  }
}

// Uses the parameters up; `scratch` has room for them in whole vectors.
static void pick(
    const Output& o, float* parameters, const float* uniforms, float* scratch, float* levels) {
  switch (o.distribution) {
    case Distribution::bernoulli:
      levels[0] = binary(parameters[0], o.filters.temperature, uniforms[0]);
      break;
    case Distribution::categorical:
      levels[0] =
          static_cast<float>(place_of(parameters, o.outputs, o.filters, uniforms[0], scratch));
      break;
    case Distribution::mixture:
      mixture(o, parameters, uniforms, scratch, levels);
  }
}

}  // namespace pixel_sampling

}  // namespace dgm::DGM_ISA
