// The sweep through a masked network on an NVIDIA GPU, one launch for all features: they are in
// block.h.

#include <cuda_pipeline.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/cuda.h"
#include "common/images.h"
#include "common/scalar.h"
#include "masked_sweep/block.h"

namespace dgm::masked_sweep {
namespace {

using torch::stable::Tensor;

constexpr int kThreads = blocks::kTasks;
constexpr int kWarp = 32;

class GpuBlock {
 public:
  __device__ explicit GpuBlock(float* shared) : shared_(shared) {}
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return kThreads; }
  __device__ __forceinline__ int warp() const { return kWarp; }
  __device__ __forceinline__ float* shared() const { return shared_; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  // Waits for the first `threads` of those of a sample.
  __device__ __forceinline__ void sync_team(int sample, int threads) const {
    if (threads == kWarp) {
      __syncwarp();
    } else {
      // The barrier after that of all threads.
      asm volatile("bar.sync %0, %1;" ::"r"(sample + 1), "r"(threads) : "memory");
    }
  }
  __device__ __forceinline__ void copy(float* to, const float* from) const {
    __pipeline_memcpy_async(to, from, sizeof(float));
  }
  __device__ __forceinline__ void copy_quad(float* to, const float* from) const {
    __pipeline_memcpy_async(to, from, sizeof(blocks::Quad));
  }
  __device__ __forceinline__ void wait_for_copies() const {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }

 private:
  float* shared_;
};

template <int S>
__global__ void __launch_bounds__(kThreads, 1)
    sweep_kernel(const __grid_constant__ BlockSweep sweep, const __grid_constant__ Shared places) {
  extern __shared__ float4 shared[];
  const GpuBlock block(reinterpret_cast<float*>(shared));
  Group<S, GpuBlock>(sweep, places, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

template <int S>
void launch(const BlockSweep& sweep, cudaStream_t stream) {
  const Shared places(sweep.network, sweep.step, S);
  const int bytes = static_cast<int>(sizeof(float)) * places.floats;
  const auto kernel = sweep_kernel<S>;
  // What is wrong with it, the launch says.
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t blocks = (sweep.samples + S - 1) / S;
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(sweep, places);
  check_launch();
}

void run(const BlockSweep& sweep, const Tensor& x) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  int device = 0, processors = 0, most_bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const cudaStream_t stream = current_stream(x);
  switch (samples_of_block(sweep.network, sweep.step, sweep.samples, processors, most_bytes)) {
    case 1:
      return launch<1>(sweep, stream);
    case 2:
      return launch<2>(sweep, stream);
    case 4:
      return launch<4>(sweep, stream);
    default:
      return launch<8>(sweep, stream);
  }
}

void go_on(
    Tensor x, Tensor levels, Tensor log_det, std::optional<Tensor> context,
    std::vector<Tensor> weights, Tensor biases, Tensor starts, Tensor order, Tensor noise,
    std::optional<Tensor> given, std::vector<int64_t> sizes, std::vector<int64_t> skips,
    int64_t activation, std::vector<int64_t> kind, Tensor constants, int64_t begin, int64_t end,
    bool keep) {
  if (x.size(0) == 0 || begin >= end) return;
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
      pointer<const float>(noise),
      pointer<const bool>(given)};
  run(work, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("masked_sweep_go_on_cuda", TORCH_BOX(&go_on));
}

}  // namespace dgm::masked_sweep
