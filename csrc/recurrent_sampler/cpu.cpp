// The sampler of recurrent networks on the CPU: the operator's boundary. The steps are in passes.h.

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
#include "recurrent_sampler/problem.h"
#include "sequence_sampler/arguments.h"

#define DGM_ISA_SOURCE "recurrent_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::recurrent_sampler {
namespace {

using torch::stable::Tensor;

// `weights` are the table or embedding, the head and its bias, and input, hidden and bias of each
// layer, `sizes` in the order of Sizes; `hidden` has the state of each layer, of an LSTM each state
// with its cell.
Network network_of(
    const std::vector<Tensor>& weights, const std::vector<int64_t>& sizes, bool lstm,
    const std::vector<Tensor>& hidden) {
  const auto at = [&](std::size_t i) { return pointer<const float>(weights[i]); };
  Network network{lstm, {sizes[0], sizes[1], sizes[2]}, at(0), at(1), at(2), {}};
  for (std::size_t i = 3, h = 0; i < weights.size(); i += 3, h += lstm ? 2 : 1) {
    float* cell = lstm ? pointer<float>(hidden[h + 1]) : nullptr;
    network.layers.push_back({at(i), at(i + 1), at(i + 2), pointer<float>(hidden[h]), cell});
  }
  return network;
}

Tensor draw(
    std::vector<Tensor> hidden, std::optional<Tensor> parameters, Tensor inputs,
    std::optional<Tensor> given, std::optional<Tensor> noise, std::vector<Tensor> weights,
    std::vector<int64_t> sizes, bool lstm, double temperature, int64_t top_k, double top_p) {
  Tensor drawn = sequence_sampler::empty_tokens(inputs, noise);
  const Draw work{
      network_of(weights, sizes, lstm, hidden),
      sequence_sampler::tokens_of(
          inputs, given, noise, parameters, drawn, sizes[2],
          {static_cast<float>(temperature), top_k, top_p})};
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(recurrent_sampling::draw, work, threads);
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("recurrent_sampler_draw_cpp", TORCH_BOX(&draw));
}

}  // namespace dgm::recurrent_sampler
