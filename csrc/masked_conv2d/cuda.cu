// Sums over live taps and a weight's gradient on Hopper: the operators' boundary. The kernels are
// in hopper.cuh and hopper_gradient.cuh.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/cuda.h"
#include "masked_conv2d/hopper.cuh"
#include "masked_conv2d/hopper_gradient.cuh"

namespace dgm::masked_conv2d {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kPackThreads = 256;

int at(const std::vector<int64_t>& from, size_t i) { return static_cast<int>(from[i]); }

Rows rows_of(const std::optional<Tensor>& t) {
  if (!t) return {nullptr, 0};
  return {t->data_ptr(), t->stride(0)};
}

template <typename T, int TILE_N, bool GATED>
void launch(const Product& p, cudaStream_t stream) {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int64_t tiles = tiles_of(p.grid);
  const int64_t blocks = p.tiles_n * std::min<int64_t>(tiles, std::max(1, processors / p.tiles_n));
  const uint32_t bytes = shared_bytes(p, TILE_N);

  const auto kernel = product_kernel<T, TILE_N, GATED>;
  // What is wrong with it, the launch says.
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(p);
  check_launch();
}

template <typename T>
void multiply(Product p, const Weight& weight, int tile_n, const Tensor& x) {
  const int64_t elements =
      static_cast<int64_t>(p.tiles_n) * weight_bytes(p.taps, p.channels, tile_n) / sizeof(T);
  Tensor packed = torch::stable::empty({elements}, x.scalar_type(), std::nullopt, x.device());
  const int64_t blocks = (elements / 8 + kPackThreads - 1) / kPackThreads;
  const cudaStream_t stream = current_stream(x);
  pack_kernel<T><<<static_cast<unsigned>(blocks), kPackThreads, 0, stream>>>(
      weight, static_cast<T*>(packed.data_ptr()), tile_n);
  check_launch();

  p.weight = packed.data_ptr();
  if (weight.parts == 2 && !weight.after) {
    tile_n == 128 ? launch<T, 128, true>(p, stream) : launch<T, 64, true>(p, stream);
  } else {
    tile_n == 128 ? launch<T, 128, false>(p, stream) : launch<T, 64, false>(p, stream);
  }
}

// `grid` is (samples, height, width), `layer` (parts, group_out, group_in, strict, after), `plan`
// (tile_w, tile_n, tiles_n, stages, stage_rows), `columns` (across, first, taps) of each column and
// `taps` the place of each tap in the kernel.
void product(
    Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual, Tensor y,
    std::optional<Tensor> kept, std::vector<int64_t> grid, std::vector<int64_t> layer,
    std::vector<int64_t> plan, std::vector<int64_t> columns, std::vector<int64_t> taps) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  STD_TORCH_CHECK(
      columns.size() <= 3 * kMostColumns && taps.size() <= kMostTaps,
      "masked_conv2d: too many taps");

  Product p{};
  p.x = rows_of(x);
  p.residual = rows_of(residual);
  p.y = rows_of(y);
  p.kept = rows_of(kept);
  p.bias = bias ? bias->data_ptr() : nullptr;
  p.channels = static_cast<int>(x.size(1));
  p.outputs = static_cast<int>(y.size(1));
  p.grid = {at(grid, 0), at(grid, 1), at(grid, 2), at(plan, 0)};
  p.tiles_n = at(plan, 2);
  p.stages = at(plan, 3);
  p.stage_rows = at(plan, 4);
  p.columns = static_cast<int>(columns.size() / 3);
  p.taps = static_cast<int>(taps.size());
  for (int i = 0; i < p.columns; ++i) {
    p.column[i] = {at(columns, 3 * i), at(columns, 3 * i + 1), at(columns, 3 * i + 2)};
  }

  Weight w{};
  w.pointer = weight.data_ptr();
  w.stride_out = weight.stride(0);
  w.stride_in = weight.stride(1);
  w.stride_h = weight.stride(2);
  w.stride_w = weight.stride(3);
  w.kernel_w = static_cast<int>(weight.size(3));
  w.centre = static_cast<int>(weight.size(2) / 2 * weight.size(3) + weight.size(3) / 2);
  w.parts = at(layer, 0);
  w.outs = static_cast<int>(weight.size(0)) / w.parts;
  w.ins = static_cast<int>(weight.size(1));
  w.group_out = at(layer, 1);
  w.group_in = at(layer, 2);
  w.strict = layer[3] != 0;
  w.after = layer[4] != 0;
  w.taps = p.taps;
  w.tiles_n = p.tiles_n;
  for (int i = 0; i < p.taps; ++i) w.tap[i] = static_cast<uint8_t>(taps[i]);

  if (x.scalar_type() == ScalarType::BFloat16) {
    multiply<__nv_bfloat16>(p, w, at(plan, 1), x);
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Half, "masked_conv2d: no kernel for this dtype");
    multiply<__half>(p, w, at(plan, 1), x);
  }
}

template <typename T, int TILE_C>
void launch(const Gradient& g, cudaStream_t stream) {
  const int64_t blocks = static_cast<int64_t>(g.count) * g.tiles_c * g.jobs;
  const uint32_t bytes = shared_bytes(g);
  const auto kernel = gradient_kernel<T, TILE_C>;
  // What is wrong with it, the launch says.
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<static_cast<unsigned>(blocks), kGradientThreads, bytes, stream>>>(g);
  check_launch();
}

// `grid` is (samples, height, width), `plan` (tile_w, tile_c, stages, stage, jobs, tiles_c),
// `togethers` (across, first row, taps, first job) of each and `taps` the place of each of their
// taps.
void gradient(
    Tensor grad, Tensor x, Tensor pieces, std::vector<int64_t> grid, std::vector<int64_t> plan,
    std::vector<int64_t> togethers, std::vector<int64_t> taps) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  STD_TORCH_CHECK(taps.size() <= kMostTaps, "masked_conv2d: too many taps");
  Gradient g{};
  g.grid = {at(grid, 0), at(grid, 1), at(grid, 2), at(plan, 0)};
  g.grad = rows_of(grad);
  g.x = rows_of(x);
  g.pieces = static_cast<float*>(pieces.data_ptr());
  g.count = static_cast<int>(pieces.size(0));
  g.outs = static_cast<int>(grad.size(1));
  g.channels = static_cast<int>(x.size(1));
  g.taps = static_cast<int>(taps.size());
  g.stages = at(plan, 2);
  g.stage = at(plan, 3);
  g.jobs = at(plan, 4);
  g.tiles_c = at(plan, 5);
  g.togethers = static_cast<int>(togethers.size() / 4);
  int next = 0;
  for (int i = 0; i < g.togethers; ++i) {
    Together& together = g.together[i];
    together.column = {at(togethers, 4 * i), at(togethers, 4 * i + 1), at(togethers, 4 * i + 2)};
    together.first = at(togethers, 4 * i + 3);
    for (int tap = 0; tap < together.column.taps; ++tap) together.place[tap] = at(taps, next++);
  }

  const cudaStream_t stream = current_stream(x);
  const bool wide = plan[1] == 2 * kChunk;
  if (x.scalar_type() == ScalarType::BFloat16) {
    wide ? launch<__nv_bfloat16, 128>(g, stream) : launch<__nv_bfloat16, 64>(g, stream);
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Half, "masked_conv2d: no kernel for this dtype");
    wide ? launch<__half, 128>(g, stream) : launch<__half, 64>(g, stream);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) {
  m.impl("live_taps_product_cuda", TORCH_BOX(&product));
  m.impl("live_taps_gradient_cuda", TORCH_BOX(&gradient));
}

}  // namespace dgm::masked_conv2d
