// Blocks of a GPU's threads that each take some samples through a model in one launch.
#pragma once

#include <cuda_pipeline.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/block_choice.h"
#include "common/block_products.h"
#include "common/cuda.h"

namespace dgm::blocks {

constexpr int kThreads = kTasks;
constexpr int kWarp = 32;

// A block as the code that threads of a CPU run too sees it.
class GpuBlock {
 public:
  __device__ explicit GpuBlock(float4* shared) : shared_(reinterpret_cast<float*>(shared)) {}
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
    __pipeline_memcpy_async(to, from, sizeof(Quad));
  }
  __device__ __forceinline__ void wait_for_copies() const {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }

 private:
  float* shared_;
};

struct Launch {
  int64_t blocks;
  int bytes, most_bytes;  // that the threads of a block share, and that they may
  cudaStream_t stream;

  template <typename... Parameters>
  void operator()(void (*kernel)(Parameters...), const Parameters&... arguments) const {
    // What is wrong with it, the launch says.
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(arguments...);
    check_launch();
  }
};

// Calls start(std::integral_constant<int, S>{}, launch) for blocks of S samples, each of which
// shares `bytes_of(S)`, on the GPU of a tensor.
template <typename BytesOf, typename Start>
void launch_blocks(
    const torch::stable::Tensor& tensor, int64_t samples, const BytesOf& bytes_of,
    const Start& start) {
  const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
  int device = 0, processors = 0, most_bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int some = samples_of_block(samples, processors, most_bytes, bytes_of);
  const Launch launch{
      (samples + some - 1) / some, static_cast<int>(bytes_of(some)), most_bytes,
      current_stream(tensor)};
  switch_samples(some, [&](auto constant) { start(constant, launch); });
}

}  // namespace dgm::blocks
