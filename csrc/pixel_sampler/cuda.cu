// The sampler of PixelCNNs on an NVIDIA GPU, one launch for all rows: they are in block.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/gpu_block.cuh"
#include "pixel_sampler/arguments.h"
#include "pixel_sampler/block.h"

namespace dgm::pixel_sampler {
namespace {

template <int S>
__global__ void __launch_bounds__(kThreads, 1) draw_kernel(const __grid_constant__ Draw draw) {
  extern __shared__ float4 shared[];
  const GpuBlock block(shared);
  Group<S, GpuBlock>(draw, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

void run(const Draw& given, const Tensor& rows) {
  Draw draw = given;
  const Tensor row_values = torch::stable::empty(
      {draw.samples, draw.network.sizes.row}, ScalarType::Float, std::nullopt, rows.device());
  draw.row_values = pointer<float>(row_values);

  const auto bytes_of = [&](int images) { return shared_bytes(draw.network.sizes, images); };
  launch_blocks(rows, draw.samples, bytes_of, [&](auto images, const Launch& launch) {
    launch(draw_kernel<decltype(images)::value>, draw);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("pixel_sampler_draw_cuda", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::pixel_sampler
