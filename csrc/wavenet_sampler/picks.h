// Levels drawn of parameters, by the rules of `distributions`; compiled once per instruction set,
// so without a guard.

#include "common/draws.h"

namespace dgm::DGM_ISA {

namespace sampling {

using dgm::wavenet_sampler::Output;

// (x + 1) (L - 1) / 2 to the nearest level, of x drawn by the inverse of a component's logistic.
static int64_t level_of_mixture(
    const Output& output, const float* parameters, const float* uniforms, float* scratch) {
  const int64_t K = output.outputs / 3;
  const int64_t k = place_of(parameters, K, output.filters.temperature, uniforms[0], scratch);
  const float log_scale = std::max(parameters[2 * K + k], output.lowest_log_scale);
  const float x = logistic(parameters[K + k], log_scale, output.filters.temperature, uniforms[1]);

  const float half = static_cast<float>(output.levels - 1) / 2.0f;
  const float place = __builtin_nearbyintf((x + 1.0f) * half);
  // Of NaN, the first level; of what no integer holds, the last.
  if (!(place > 0.0f)) return 0;
  const int64_t last = output.levels - 1;
  return place < static_cast<float>(last) ? static_cast<int64_t>(place) : last;
}

// Uses the parameters up.
static int64_t pick(
    const Output& output, float* parameters, const float* uniforms, float* scratch) {
  if (output.mixture) return level_of_mixture(output, parameters, uniforms, scratch);
  return place_of(parameters, output.outputs, output.filters, uniforms[0], scratch);
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
