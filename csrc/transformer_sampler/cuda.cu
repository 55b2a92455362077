// The sampler of transformers on an NVIDIA GPU, one launch for all tokens: they are in
// block.h.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "common/cuda.h"
#include "common/gpu_block.cuh"
#include "transformer_sampler/arguments.h"
#include "transformer_sampler/block.h"

namespace dgm::transformer_sampler {
namespace {

constexpr int kMostLayers = 32;

struct Layers {
  Layer of[kMostLayers];
};

template <int S>
__global__ void __launch_bounds__(GpuBlock::kThreads, 1)
    draw_kernel(const __grid_constant__ Draw given, const __grid_constant__ Layers layers) {
  extern __shared__ float4 shared[];
  Draw draw = given;
  draw.network.layers = layers.of;
  const GpuBlock block(reinterpret_cast<float*>(shared));
  Group<S, GpuBlock>(draw, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

template <int S>
void launch(const Draw& draw, const Layers& layers, cudaStream_t stream) {
  const int bytes = static_cast<int>(shared_bytes(draw.network.sizes, S));
  const auto kernel = draw_kernel<S>;
  // What is wrong with it, the launch says.
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t blocks = (draw.tokens.samples + S - 1) / S;
  kernel<<<static_cast<unsigned>(blocks), GpuBlock::kThreads, bytes, stream>>>(draw, layers);
  check_launch();
}

void run(const Draw& draw, const Tensor& inputs) {
  const torch::stable::accelerator::DeviceGuard guard(inputs.get_device_index());
  const int64_t count = draw.network.sizes.layers;
  STD_TORCH_CHECK(
      count <= kMostLayers, "transformer_sampler: at most ", kMostLayers, " layers; got ", count);
  Layers layers{};
  std::copy_n(draw.network.layers, count, layers.of);

  int device = 0, processors = 0, most_bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const cudaStream_t stream = current_stream(inputs);
  switch (sequences_of_block(draw.network.sizes, draw.tokens.samples, processors, most_bytes)) {
    case 1:
      return launch<1>(draw, layers, stream);
    case 2:
      return launch<2>(draw, layers, stream);
    case 4:
      return launch<4>(draw, layers, stream);
    default:
      return launch<8>(draw, layers, stream);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("transformer_sampler_draw_cuda", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::transformer_sampler
