// A block of a GPU's threads, as samplers want it.
#pragma once

#include "common/block_products.h"

namespace dgm::blocks {

class GpuBlock {
 public:
  static constexpr int kThreads = kTasks;

  __device__ explicit GpuBlock(float* shared) : shared_(shared) {}
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return kThreads; }
  __device__ __forceinline__ float* shared() const { return shared_; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }

 private:
  float* shared_;
};

}  // namespace dgm::blocks
