// The sampler of transformers on an NVIDIA GPU, one launch for all tokens: they are in
// block.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

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
__global__ void __launch_bounds__(kThreads, 1)
    draw_kernel(const __grid_constant__ Draw given, const __grid_constant__ Layers layers) {
  extern __shared__ float4 shared[];
  Draw draw = given;
  draw.network.layers = layers.of;
  const GpuBlock block(shared);
  Group<S, GpuBlock>(draw, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

void run(const Draw& draw, const Tensor& inputs) {
  const int64_t count = draw.network.sizes.layers;
  STD_TORCH_CHECK(
      count <= kMostLayers, "transformer_sampler: at most ", kMostLayers, " layers; got ", count);
  Layers layers{};
  std::copy_n(draw.network.layers, count, layers.of);

  const auto bytes_of = [&](int sequences) { return shared_bytes(draw.network.sizes, sequences); };
  launch_blocks(inputs, draw.tokens.samples, bytes_of, [&](auto sequences, Launch launch) {
    Draw work = draw;
    const int64_t bytes = bytes_of(kMostSamples);
    work.feeds_together = draw.tokens.unseen() > 1 && bytes <= launch.most_bytes;
    if (work.feeds_together) launch.bytes = static_cast<int>(bytes);
    launch(draw_kernel<decltype(sequences)::value>, work, layers);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("transformer_sampler_draw_cuda", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::transformer_sampler
