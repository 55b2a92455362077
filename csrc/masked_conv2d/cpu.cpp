// masked_conv2d on the CPU: the operators' boundary. The sums are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/images.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "masked_conv2d/problem.h"

#define DGM_ISA_SOURCE "masked_conv2d/passes.h"
#include "common/for_each_isa.h"

namespace dgm::masked_conv2d {
namespace {

using torch::stable::Tensor;

Grid grid_of(const Tensor& x) { return {x.size(0), x.size(2), x.size(3), x.size(3)}; }

Mask mask_of(
    const Grid& grid, const Tensor& weight, int64_t groups, int64_t parts, bool strict,
    int64_t dilation_h, int64_t dilation_w) {
  const int64_t kernel_h = weight.size(2), kernel_w = weight.size(3);
  Mask mask{{}, weight.size(1), weight.size(0), kernel_h * kernel_w, groups, parts, strict};
  const int64_t centre = kernel_h / 2 * kernel_w + kernel_w / 2;
  for (int64_t i = 0; i < centre + (strict && groups == 1 ? 0 : 1); ++i) {
    const int64_t row = (i / kernel_w - kernel_h / 2) * dilation_h;
    const int64_t column = (i % kernel_w - kernel_w / 2) * dilation_w;
    // Beyond the image on either side there is nothing but zeros.
    if (-row >= grid.height || std::abs(column) >= grid.width) continue;
    mask.taps.push_back({row, column, i, i == centre});
  }
  return mask;
}

std::tuple<Tensor, Tensor> forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> residual,
    int64_t groups, bool strict, int64_t dilation_h, int64_t dilation_w, bool gated, bool keep,
    bool channels_last) {
  const ScalarType dtype = x.scalar_type();
  const int64_t out = weight.size(0), height = x.size(2), width = x.size(3);
  Tensor y = empty_images(x.size(0), gated ? out / 2 : out, height, width, channels_last, dtype);
  Tensor kept = empty_images(keep ? x.size(0) : 0, out, height, width, channels_last, dtype);
  if (y.numel() == 0) return {y, kept};

  weight = torch::stable::contiguous(weight);
  bias = contiguous(bias);
  const Grid grid = grid_of(x);
  const Mask mask = mask_of(grid, weight, groups, gated ? 2 : 1, strict, dilation_h, dilation_w);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> pass{
        grid,
        mask,
        images<const T>(x),
        pointer<const T>(weight),
        pointer<const T>(bias),
        images<const T>(residual),
        images<T>(y),
        images<T>(kept),
        gated};
    DGM_CALL_LIVE_ISA(forward, pass);
  });
  return {y, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad_y, Tensor x, Tensor weight, std::optional<Tensor> kept, int64_t groups, bool strict,
    int64_t dilation_h, int64_t dilation_w, bool channels_last, std::vector<bool> needs) {
  const ScalarType dtype = x.scalar_type();
  const int64_t out = weight.size(0), in = weight.size(1);
  const int64_t height = x.size(2), width = x.size(3);
  const auto images_if = [&](bool needed, int64_t channels) {
    return empty_images(needed ? x.size(0) : 0, channels, height, width, channels_last, dtype);
  };
  Tensor grad_x = images_if(needs[0], in), grad = images_if(kept.has_value(), out);
  Tensor grad_weight =
      torch::stable::empty({needs[1] ? out : 0, in, weight.size(2), weight.size(3)}, dtype);
  Tensor grad_bias = torch::stable::empty({needs[2] ? out : 0}, dtype);

  weight = torch::stable::contiguous(weight);
  const Grid grid = grid_of(x);
  const Mask mask = mask_of(grid, weight, groups, kept ? 2 : 1, strict, dilation_h, dilation_w);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (kept && grad.numel() > 0) {
      const Gate<T> gate{
          grid, out / 2, images<const T>(grad_y), images<const T>(*kept), images<T>(grad)};
      DGM_CALL_LIVE_ISA(gate_backward, gate);
    }
    const Backward<T> pass{
        grid,
        mask,
        images<const T>(kept ? grad : grad_y),
        images<const T>(x),
        pointer<const T>(weight),
        images<T>(grad_x),
        pointer<T>(grad_weight),
        pointer<T>(grad_bias)};
    DGM_CALL_LIVE_ISA(backward, pass);
  });
  return {grad_x, grad_weight, grad_bias, grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("masked_conv2d_forward_cpp", TORCH_BOX(&forward));
  m.impl("masked_conv2d_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::masked_conv2d
