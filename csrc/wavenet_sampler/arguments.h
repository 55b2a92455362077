// The operator's boundary, the same on a CPU and a GPU.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/images.h"
#include "common/noise_arguments.h"
#include "common/scalar.h"
#include "wavenet_sampler/problem.h"

namespace dgm::wavenet_sampler {

using torch::stable::Tensor;

// Where the ring of each layer begins.
inline std::vector<int64_t> rings_of(
    const std::vector<int64_t>& sizes, const std::vector<int64_t>& dilations) {
  std::vector<int64_t> rings;
  int64_t begin = 0;
  for (int64_t dilation : dilations) {
    rings.push_back(begin);
    begin += (sizes[2] - 1) * dilation * sizes[0];
  }
  return rings;
}

// `weights` and `sizes` lie in the order of Network and Sizes.
inline Network network_of(
    const std::vector<Tensor>& weights, const std::vector<int64_t>& sizes,
    const std::vector<int64_t>& dilations, const std::vector<int64_t>& rings) {
  const int64_t layers = static_cast<int64_t>(dilations.size());
  const auto at = [&](int i) { return pointer<const float>(weights[i]); };
  return {
      {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], layers, sizes[7],
       sizes[8]},
      dilations.data(),
      rings.data(),
      at(0),
      at(1),
      at(2),
      at(3),
      at(4),
      at(5),
      at(6),
      at(7),
      at(8),
      at(9),
      at(10),
      at(11)};
}

// The operator, of which `run(draw, rings)` does the work.
template <void (*run)(const Draw&, const Tensor&)>
std::tuple<Tensor, Tensor> draw(
    Tensor rings, Tensor recent, std::vector<Tensor> weights, std::vector<int64_t> sizes,
    std::vector<int64_t> dilations, Tensor condition, std::optional<Tensor> features,
    std::optional<Tensor> given, std::optional<Tensor> noise, std::optional<Tensor> seed,
    std::vector<int64_t> of_seed, int64_t time, int64_t outputs, int64_t levels, bool mixture,
    double temperature, int64_t top_k, double top_p, double lowest_log_scale, bool keep) {
  const Noise numbers = noise_of(noise, seed, of_seed);
  const int64_t samples = rings.size(0), steps = given ? given->size(1) : numbers.places;
  const auto empty = [&](std::vector<int64_t> shape, ScalarType dtype) {
    return torch::stable::empty(shape, dtype, std::nullopt, rings.device());
  };
  Tensor drawn = empty({samples, given ? 0 : steps}, ScalarType::Long);
  Tensor parameters = empty({samples, keep && !given ? steps : 0, outputs}, ScalarType::Float);
  if (samples == 0 || steps == 0) return {drawn, parameters};

  const std::vector<int64_t> begins = rings_of(sizes, dilations);
  const Draw work{
      network_of(weights, sizes, dilations, begins),
      {mixture,
       outputs,
       levels,
       {static_cast<float>(temperature), top_k, top_p},
       static_cast<float>(lowest_log_scale)},
      samples,
      steps,
      time,
      pointer<float>(rings),
      rings.size(1),
      pointer<int64_t>(recent),
      pointer<const float>(condition),
      condition.size(0) > 1 ? condition.stride(0) : 0,
      pointer<const float>(features),
      pointer<const int64_t>(given),
      numbers,
      pointer<int64_t>(drawn),
      pointer<float>(parameters)};
  run(work, rings);
  return {drawn, parameters};
}

}  // namespace dgm::wavenet_sampler
