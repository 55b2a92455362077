// The sweep through a masked network on an NVIDIA GPU, one launch for all features: they are in
// block.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/gpu_block.cuh"
#include "common/images.h"
#include "common/noise_arguments.h"
#include "common/scalar.h"
#include "masked_sweep/block.h"

namespace dgm::masked_sweep {
namespace {

using blocks::GpuBlock;
using torch::stable::Tensor;

template <int S>
__global__ void __launch_bounds__(blocks::kThreads, 1)
    sweep_kernel(const __grid_constant__ BlockSweep sweep, const __grid_constant__ Shared places) {
  extern __shared__ float4 shared[];
  const GpuBlock block(shared);
  Group<S, GpuBlock>(sweep, places, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

void run(const BlockSweep& sweep, const Tensor& x) {
  const auto bytes_of = [&](int samples) {
    return shared_bytes(sweep.network, sweep.step, samples);
  };
  blocks::launch_blocks(
      x, sweep.samples, bytes_of, [&](auto samples, const blocks::Launch& launch) {
        constexpr int S = decltype(samples)::value;
        launch(sweep_kernel<S>, sweep, Shared(sweep.network, sweep.step, S));
      });
}

void go_on(
    Tensor x, Tensor levels, Tensor log_det, std::optional<Tensor> context,
    std::vector<Tensor> weights, Tensor biases, Tensor starts, Tensor order,
    std::optional<Tensor> noise, std::optional<Tensor> seed, std::vector<int64_t> of_seed,
    std::optional<Tensor> given, std::vector<int64_t> sizes, std::vector<int64_t> skips,
    int64_t activation, std::vector<int64_t> kind, Tensor constants, int64_t begin, int64_t end,
    bool keep) {
  if (x.size(0) == 0 || begin >= end) return;
  check_is_some(noise, seed);
  STD_TORCH_CHECK(
      sizes[3] <= kMostHidden, "masked_sweep: at most ", kMostHidden, " hidden levels; got ",
      sizes[3]);
  std::vector<const float*> matrices;
  for (const Tensor& weight : weights) matrices.push_back(pointer<const float>(weight));
  const BlockSweep work{
      network_of(
          sizes, skips, matrices, pointer<const float>(biases), pointer<const int64_t>(starts),
          pointer<const int64_t>(order), static_cast<Activation>(activation)),
      step_of(kind, pointer<const double>(constants)),
      x.size(0),
      static_cast<int>(begin),
      static_cast<int>(end),
      pointer<float>(x),
      pointer<float>(levels),
      levels.size(1),
      keep,
      pointer<float>(log_det),
      pointer<const float>(context),
      noise_of(noise, seed, of_seed),
      pointer<const bool>(given)};
  run(work, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("masked_sweep_go_on_cuda", TORCH_BOX(&go_on));
}

}  // namespace dgm::masked_sweep
