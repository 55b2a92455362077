// The sampler of PixelCNNs on an NVIDIA GPU, one launch for all rows: they are in block.h.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/cuda.h"
#include "common/gpu_block.cuh"
#include "pixel_sampler/arguments.h"
#include "pixel_sampler/block.h"

namespace dgm::pixel_sampler {
namespace {

template <int S>
__global__ void __launch_bounds__(GpuBlock::kThreads, 1)
    draw_kernel(const __grid_constant__ Draw draw) {
  extern __shared__ float4 shared[];
  const GpuBlock block(reinterpret_cast<float*>(shared));
  Group<S, GpuBlock>(draw, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

template <int S>
void launch(const Draw& draw, cudaStream_t stream) {
  const int bytes = static_cast<int>(shared_bytes(draw.network.sizes, S));
  const auto kernel = draw_kernel<S>;
  // What is wrong with it, the launch says.
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int64_t blocks = (draw.samples + S - 1) / S;
  kernel<<<static_cast<unsigned>(blocks), GpuBlock::kThreads, bytes, stream>>>(draw);
  check_launch();
}

void run(const Draw& given, const Tensor& rows) {
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  Draw draw = given;
  const Tensor row_values = torch::stable::empty(
      {draw.samples, draw.network.sizes.row}, ScalarType::Float, std::nullopt, rows.device());
  draw.row_values = pointer<float>(row_values);

  int device = 0, processors = 0, most_bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const cudaStream_t stream = current_stream(rows);
  switch (images_of_block(draw.network.sizes, draw.samples, processors, most_bytes)) {
    case 1:
      return launch<1>(draw, stream);
    case 2:
      return launch<2>(draw, stream);
    case 4:
      return launch<4>(draw, stream);
    default:
      return launch<8>(draw, stream);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("pixel_sampler_draw_cuda", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::pixel_sampler
