// Sweeps through a masked network on the CPU: the operators' boundary. They are in passes.h and,
// from the last feature to the first, in transposed.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/images.h"
#include "common/isa.h"
#include "common/noise_arguments.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "masked_sweep/pack.h"
#include "masked_sweep/problem.h"

#define DGM_ISA_SOURCE "masked_sweep/transposed.h"
#include "common/for_each_isa.h"

namespace dgm::masked_sweep {
namespace {

using torch::stable::Tensor;

// `sizes`: features, context, parameters, hidden levels, block, whether inputs go to outputs, and
// units of each hidden level.
Plan plan_of(const Tensor& starts, const std::vector<int64_t>& sizes) {
  Plan plan{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], pointer<const int64_t>(starts), {}};
  for (int64_t l = 0; l <= plan.hidden; ++l) plan.edges.push_back({l, l + 1});
  if (sizes[5] != 0) plan.edges.push_back({0, plan.last()});
  for (int64_t l = 1; l <= plan.hidden; ++l) {
    plan.columns.push_back(plan.columns[l] + sizes[5 + l]);
  }
  return plan;
}

std::vector<int64_t> begins_of(const Plan& plan) {
  std::vector<int64_t> begins{0};
  for (int64_t b = 0; b < plan.blocks(); ++b) begins.push_back(begins.back() + plan.packed(b));
  return begins;
}

Tensor pack(
    std::vector<Tensor> weights, std::vector<Tensor> rows, std::vector<Tensor> columns,
    Tensor starts, std::vector<int64_t> sizes) {
  Pack work{plan_of(starts, sizes), {}, {}, nullptr};
  work.begins = begins_of(work.plan);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    work.sources.push_back(
        {pointer<const float>(weights[i]), weights[i].stride(0), weights[i].stride(1),
         pointer<const int64_t>(rows[i]), pointer<const int64_t>(columns[i])});
  }
  Tensor packed = empty_matrix(1, work.begins.back(), ScalarType::Float);
  work.packed = pointer<float>(packed);
  pack_all(work);
  return packed;
}

Network network_of(
    const Tensor& packed, const float* biases, const Tensor& starts, const Tensor& order,
    const std::vector<int64_t>& sizes, std::vector<int64_t> skips) {
  Plan plan = plan_of(starts, sizes);
  std::vector<int64_t> begins = begins_of(plan);
  return {
      std::move(plan),
      std::move(begins),
      pointer<const float>(packed),
      biases,
      pointer<const int64_t>(order),
      std::move(skips)};
}

void go_on(
    Tensor x, Tensor levels, Tensor log_det, std::optional<Tensor> context,
    std::vector<Tensor> packed, Tensor biases, Tensor starts, Tensor order,
    std::optional<Tensor> noise, std::optional<Tensor> seed, std::vector<int64_t> of_seed,
    std::optional<Tensor> given, std::vector<int64_t> sizes, std::vector<int64_t> skips,
    int64_t activation, std::vector<int64_t> kind, Tensor constants, int64_t begin, int64_t end,
    bool keep) {
  if (x.size(0) == 0 || begin >= end) return;
  check_is_some(noise, seed);
  check_is_given(noise_of(noise, seed, of_seed));
  const Sweep work{
      network_of(packed[0], pointer<const float>(biases), starts, order, sizes, std::move(skips)),
      step_of(kind, pointer<const double>(constants)),
      static_cast<Activation>(activation),
      x.size(0),
      begin,
      end,
      pointer<float>(x),
      pointer<float>(levels),
      levels.size(1),
      keep,
      pointer<float>(log_det),
      pointer<const float>(context),
      pointer<const float>(noise),
      pointer<const bool>(given)};
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(sweep::run, work, threads);
}

Tensor solve_transposed(
    Tensor grad, Tensor slopes, Tensor by_parameters, std::vector<Tensor> hidden,
    std::vector<Tensor> places, Tensor packed, Tensor starts, Tensor order,
    std::vector<int64_t> sizes, std::vector<int64_t> skips) {
  Tensor w = empty_matrix(grad.size(0), grad.size(1), ScalarType::Float);
  if (w.numel() == 0) return w;
  std::vector<Held> held;
  for (std::size_t l = 0; l < hidden.size(); ++l) {
    held.push_back(
        {pointer<const float>(hidden[l]), hidden[l].size(1), pointer<const int64_t>(places[l])});
  }
  const Transposed work{
      network_of(packed, nullptr, starts, order, sizes, std::move(skips)),
      std::move(held),
      grad.size(0),
      by_parameters.size(2),
      pointer<const float>(grad),
      pointer<const float>(slopes),
      pointer<const float>(by_parameters),
      pointer<float>(w)};
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(sweep::run_transposed, work, threads);
  return w;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("masked_packing_pack_cpp", TORCH_BOX(&pack));
  m.impl("masked_sweep_go_on_cpp", TORCH_BOX(&go_on));
  m.impl("masked_transposed_solve_cpp", TORCH_BOX(&solve_transposed));
}

}  // namespace dgm::masked_sweep
