// The operator's boundary, the same on a CPU and a GPU.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/images.h"
#include "recurrent_sampler/problem.h"
#include "sequence_sampler/arguments.h"

namespace dgm::recurrent_sampler {

using torch::stable::Tensor;

// `weights` are the table or embedding, the head and its bias, and input, hidden and bias of each
// layer; `hidden` has the state of each layer, of an LSTM each state with its cell.
inline std::vector<Layer> layers_of(
    const std::vector<Tensor>& weights, bool lstm, const std::vector<Tensor>& hidden) {
  const auto at = [&](std::size_t i) { return pointer<const float>(weights[i]); };
  std::vector<Layer> layers;
  for (std::size_t i = 3, h = 0; i < weights.size(); i += 3, h += lstm ? 2 : 1) {
    float* cell = lstm ? pointer<float>(hidden[h + 1]) : nullptr;
    layers.push_back({at(i), at(i + 1), at(i + 2), pointer<float>(hidden[h]), cell});
  }
  return layers;
}

// `sizes` are the first three of Sizes.
inline Network network_of(
    const std::vector<Tensor>& weights, const std::vector<int64_t>& sizes, bool lstm,
    const std::vector<Layer>& layers) {
  const auto at = [&](std::size_t i) { return pointer<const float>(weights[i]); };
  const int64_t count = static_cast<int64_t>(layers.size()), symbols = weights[0].size(0);
  return {lstm, {sizes[0], sizes[1], sizes[2], count, symbols}, at(0), at(1), at(2), layers.data()};
}

// The operator, of which `run(draw, inputs)` does the work.
template <void (*run)(const Draw&, const Tensor&)>
Tensor draw(
    std::vector<Tensor> hidden, std::optional<Tensor> parameters, Tensor inputs,
    std::optional<Tensor> given, std::optional<Tensor> noise, std::optional<Tensor> seed,
    std::vector<int64_t> of_seed, std::vector<Tensor> weights, std::vector<int64_t> sizes,
    bool lstm, double temperature, int64_t top_k, double top_p) {
  const Noise numbers = noise_of(noise, seed, of_seed);
  Tensor drawn = sequence_sampler::empty_tokens(inputs, numbers);
  if (inputs.size(0) == 0) return drawn;

  const std::vector<Layer> layers = layers_of(weights, lstm, hidden);
  const Draw work{
      network_of(weights, sizes, lstm, layers),
      sequence_sampler::tokens_of(
          inputs, given, numbers, parameters, drawn, sizes[2],
          {static_cast<float>(temperature), top_k, top_p})};
  run(work, inputs);
  return drawn;
}

}  // namespace dgm::recurrent_sampler
