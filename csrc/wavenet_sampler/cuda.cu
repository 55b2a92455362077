// The sampler of WaveNet on an NVIDIA GPU, one launch for all steps: they are in block.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "common/gpu_block.cuh"
#include "wavenet_sampler/arguments.h"
#include "wavenet_sampler/block.h"

namespace dgm::wavenet_sampler {
namespace {

constexpr int kMostLayers = 200;

struct Layers {
  int64_t dilations[kMostLayers], rings[kMostLayers];
};

template <int S>
__global__ void __launch_bounds__(kThreads, 1)
    draw_kernel(const __grid_constant__ Draw given, const __grid_constant__ Layers layers) {
  extern __shared__ float4 shared[];
  Draw draw = given;
  draw.network.dilations = layers.dilations;
  draw.network.rings = layers.rings;
  const GpuBlock block(shared);
  Group<S, GpuBlock>(draw, block, static_cast<int64_t>(blockIdx.x) * S).run();
}

void run(const Draw& draw, const Tensor& rings) {
  const Network& network = draw.network;
  const int64_t count = network.sizes.layers;
  STD_TORCH_CHECK(
      count <= kMostLayers, "wavenet_sampler: at most ", kMostLayers, " layers; got ", count);
  Layers layers{};
  std::copy_n(network.dilations, count, layers.dilations);
  std::copy_n(network.rings, count, layers.rings);

  const auto bytes_of = [&](int signals) { return shared_bytes(network.sizes, signals); };
  launch_blocks(rings, draw.samples, bytes_of, [&](auto signals, const Launch& launch) {
    launch(draw_kernel<decltype(signals)::value>, draw, layers);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("wavenet_sampler_draw_cuda", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::wavenet_sampler
