// The sampler of transformers on the CPU: the operator's boundary. The steps are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/images.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "sequence_sampler/arguments.h"
#include "transformer_sampler/problem.h"

#define DGM_ISA_SOURCE "transformer_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::transformer_sampler {
namespace {

using torch::stable::Tensor;

// `weights` are embedding, positions, turns, head and the four matrices of each layer, `sizes` in
// the order of Sizes.
Network network_of(
    const std::vector<Tensor>& weights, const std::vector<int64_t>& sizes,
    const std::vector<Tensor>& cache) {
  const auto at = [&](std::size_t i) { return pointer<const float>(weights[i]); };
  Network network{
      {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]}, at(0), at(1), at(2), at(3), {}};
  for (std::size_t i = 4, c = 0; i < weights.size(); i += 4, c += 2) {
    network.layers.push_back(
        {at(i), at(i + 1), at(i + 2), at(i + 3), pointer<float>(cache[c]),
         pointer<float>(cache[c + 1])});
  }
  return network;
}

Tensor draw(
    std::vector<Tensor> cache, std::optional<Tensor> parameters, Tensor inputs,
    std::optional<Tensor> given, std::optional<Tensor> noise, std::vector<Tensor> weights,
    std::vector<int64_t> sizes, int64_t seen, double temperature, int64_t top_k, double top_p) {
  Tensor drawn = sequence_sampler::empty_tokens(inputs, noise);
  const Draw work{
      network_of(weights, sizes, cache),
      sequence_sampler::tokens_of(
          inputs, given, noise, parameters, drawn, sizes[4],
          {static_cast<float>(temperature), top_k, top_p}),
      seen};
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(transformer_sampling::draw, work, threads);
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("transformer_sampler_draw_cpp", TORCH_BOX(&draw));
}

}  // namespace dgm::transformer_sampler
