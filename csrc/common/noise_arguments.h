// Noise at the boundary of a sampler's operator.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/images.h"
#include "common/noise.h"
#include "common/scalar.h"

namespace dgm {

// Of a seed, `of_seed` are its first sample and place, and how many places are drawn; noise that is
// given, (samples, places, each), has its own.
inline Noise noise_of(
    const std::optional<torch::stable::Tensor>& given,
    const std::optional<torch::stable::Tensor>& seed, const std::vector<int64_t>& of_seed) {
  if (given) return {pointer<const float>(given), nullptr, 0, 0, given->size(1), given->size(2)};
  if (!seed) return {};
  STD_TORCH_CHECK(
      of_seed.size() == 3, "dgm_fast: a seed needs to be told which of its numbers are drawn");
  STD_TORCH_CHECK(
      seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
      "dgm_fast: the seed of noise must be one int64");
  // Kernels that find noise there draw by it.
  if (of_seed[2] == 0) return {};
  return {nullptr, pointer<const int64_t>(seed), of_seed[0], of_seed[1], of_seed[2], 0};
}

// Of samplers that draw in every call.
inline void check_is_some(
    const std::optional<torch::stable::Tensor>& given,
    const std::optional<torch::stable::Tensor>& seed) {
  STD_TORCH_CHECK(given || seed, "dgm_fast: a sampler needs noise, or the seed of it");
}

// A CPU draws noise faster by the vector, beforehand.
inline void check_is_given(const Noise& noise) {
  STD_TORCH_CHECK(
      noise.seed == nullptr, "dgm_fast: on a CPU a sampler takes noise, and not the seed of it");
}

}  // namespace dgm
