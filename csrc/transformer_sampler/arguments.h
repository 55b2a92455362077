// The operator's boundary, the same on a CPU and a GPU.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/images.h"
#include "sequence_sampler/arguments.h"
#include "transformer_sampler/problem.h"

namespace dgm::transformer_sampler {

using torch::stable::Tensor;

// `weights` are embedding, positions, turns, head and the four matrices of each layer, `cache` keys
// and values of each.
inline std::vector<Layer> layers_of(
    const std::vector<Tensor>& weights, const std::vector<Tensor>& cache) {
  const auto at = [&](std::size_t i) { return pointer<const float>(weights[i]); };
  std::vector<Layer> layers;
  for (std::size_t i = 4, c = 0; i < weights.size(); i += 4, c += 2) {
    layers.push_back(
        {at(i), at(i + 1), at(i + 2), at(i + 3), pointer<float>(cache[c]),
         pointer<float>(cache[c + 1])});
  }
  return layers;
}

// `sizes` are the first six of Sizes.
inline Network network_of(
    const std::vector<Tensor>& weights, const std::vector<int64_t>& sizes,
    const std::vector<Layer>& layers) {
  const auto at = [&](std::size_t i) { return pointer<const float>(weights[i]); };
  const int64_t count = static_cast<int64_t>(layers.size()), symbols = weights[0].size(0);
  return {
      {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], count, symbols},
      at(0),
      at(1),
      at(2),
      at(3),
      layers.data()};
}

// The operator, of which `run(draw, inputs)` does the work.
template <void (*run)(const Draw&, const Tensor&)>
Tensor draw(
    std::vector<Tensor> cache, std::optional<Tensor> parameters, Tensor inputs,
    std::optional<Tensor> given, std::optional<Tensor> noise, std::optional<Tensor> seed,
    std::vector<int64_t> of_seed, std::vector<Tensor> weights, std::vector<int64_t> sizes,
    int64_t seen, double temperature, int64_t top_k, double top_p) {
  const Noise numbers = noise_of(noise, seed, of_seed);
  Tensor drawn = sequence_sampler::empty_tokens(inputs, numbers);
  if (inputs.size(0) == 0) return drawn;

  const std::vector<Layer> layers = layers_of(weights, cache);
  const Draw work{
      network_of(weights, sizes, layers),
      sequence_sampler::tokens_of(
          inputs, given, numbers, parameters, drawn, sizes[4],
          {static_cast<float>(temperature), top_k, top_p}),
      seen};
  run(work, inputs);
  return drawn;
}

}  // namespace dgm::transformer_sampler
