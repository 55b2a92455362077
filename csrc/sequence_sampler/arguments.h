// The tokens of the operators of samplers of sequences.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "common/images.h"
#include "common/noise_arguments.h"
#include "sequence_sampler/tokens.h"

namespace dgm::sequence_sampler {

using torch::stable::Tensor;

inline Tensor empty_tokens(const Tensor& inputs, const Noise& noise) {
  return torch::stable::empty(
      {inputs.size(0), noise.places}, ScalarType::Long, std::nullopt, inputs.device());
}

inline Tokens tokens_of(
    const Tensor& inputs, const std::optional<Tensor>& given, const Noise& noise,
    const std::optional<Tensor>& parameters, const Tensor& drawn, int64_t outputs,
    const Filters& filters) {
  return {
      inputs.size(0),
      inputs.size(1),
      drawn.size(1),
      outputs,
      pointer<const int64_t>(inputs),
      pointer<const int64_t>(given),
      noise,
      filters,
      pointer<int64_t>(drawn),
      pointer<float>(parameters)};
}

}  // namespace dgm::sequence_sampler
