// Levels drawn by a block of threads, by the rules of `distributions`.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/block_draws.h"
#include "wavenet_sampler/problem.h"

namespace dgm::wavenet_sampler {

// How many logits decide: of levels, or of a mixture's components.
DGM_HOST_DEVICE int logits_of(const Output& output) {
  return static_cast<int>(output.mixture ? output.outputs / 3 : output.outputs);
}

// (x + 1) (L - 1) / 2 to the nearest level, of x = m + T s ln(u / (1 - u)) of component k.
DGM_HOST_DEVICE int64_t
level_of_component(const Output& output, const float* parameters, int k, float u) {
  const int K = logits_of(output);
  const float x = blocks::logistic(
      parameters[K + k], parameters[2 * K + k], output.lowest_log_scale, output.filters.temperature,
      u);

  const float half = static_cast<float>(output.levels - 1) / 2.0f;
  const float place = nearbyintf((x + 1.0f) * half);
  // Of NaN, the first level.
  if (!(place > 0.0f)) return 0;
  const int64_t last = output.levels - 1;
  return place < static_cast<float>(last) ? static_cast<int64_t>(place) : last;
}

}  // namespace dgm::wavenet_sampler
