// Noise at the boundary of a sampler's operator.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/images.h"
#include "common/noise.h"

namespace dgm {

// Of a seed, `of_seed` are the last four of Noise; noise that is given, (samples, places, each),
// has its own.
inline Noise noise_of(
    const std::optional<torch::stable::Tensor>& given,
    const std::optional<torch::stable::Tensor>& seed, const std::vector<int64_t>& of_seed) {
  if (given) return {pointer<const float>(given), nullptr, 0, 0, given->size(1), given->size(2)};
  if (!seed) return {};
  STD_TORCH_CHECK(
      of_seed.size() == 4, "dgm_fast: a seed needs to be told which of its numbers are drawn");
  return {nullptr, pointer<const int64_t>(seed), of_seed[0], of_seed[1], of_seed[2], of_seed[3]};
}

// A CPU draws noise faster by the vector, beforehand.
inline void check_is_given(const Noise& noise) {
  STD_TORCH_CHECK(
      noise.seed == nullptr, "dgm_fast: on a CPU a sampler takes noise, and not the seed of it");
}

}  // namespace dgm
