// A layer of WaveNet on the CPU: the operators' boundary. The sums are in passes.h.

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
#include "wavenet_layer/problem.h"

#define DGM_ISA_SOURCE "wavenet_layer/passes.h"
#include "common/for_each_isa.h"

namespace dgm::wavenet_layer {
namespace {

using torch::stable::Tensor;

Shape shape_of(const Tensor& x, const Tensor& weight, int64_t dilation) {
  return {x.size(0), x.size(1), weight.size(0) / 2, weight.size(2), x.size(2), dilation};
}

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor residual_weight,
    std::optional<Tensor> residual_bias, std::optional<Tensor> condition, int64_t dilation,
    bool keep) {
  const Shape shape = shape_of(x, weight, dilation);
  const ScalarType dtype = x.scalar_type();
  const auto [samples, channels, gated, kernel, length, step] = shape;
  Tensor y = empty_signals(samples, channels, length, dtype);
  Tensor z = empty_signals(samples, gated, length, dtype);
  Tensor kept = empty_signals(keep ? samples : 0, 2 * gated, length, dtype);
  if (y.numel() == 0) return {y, z, kept};

  weight = torch::stable::contiguous(weight);
  residual_weight = torch::stable::contiguous(residual_weight);
  bias = contiguous(bias);
  residual_bias = contiguous(residual_bias);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> pass{
        shape,
        signals<const T>(x),
        {pointer<const T>(weight), pointer<const T>(residual_weight), pointer<const T>(bias),
         pointer<const T>(residual_bias)},
        signals<const T>(condition),
        signals<T>(y),
        signals<T>(z),
        signals<T>(kept)};
    DGM_CALL_LIVE_ISA(forward, pass);
  });
  return {y, z, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_y, std::optional<Tensor> grad_z, Tensor x, Tensor weight,
    Tensor residual_weight, Tensor z, Tensor kept, int64_t dilation, std::vector<bool> needs) {
  const Shape shape = shape_of(x, weight, dilation);
  const ScalarType dtype = x.scalar_type();
  const auto [samples, channels, gated, kernel, length, step] = shape;
  const auto zeros_if = [&](bool needed, std::vector<int64_t> size) {
    if (!needed) size[0] = 0;
    Tensor t = torch::stable::empty(size, dtype);
    return torch::stable::zero_(t);
  };
  Tensor grad_x = empty_signals(needs[0] ? samples : 0, channels, length, dtype);
  Tensor grad_weight = zeros_if(needs[1], {2 * gated, channels, kernel});
  Tensor grad_bias = zeros_if(needs[2], {2 * gated});
  Tensor grad_residual = zeros_if(needs[3], {channels, gated, 1});
  Tensor grad_residual_bias = zeros_if(needs[4], {channels});
  Tensor grad_h = empty_signals(samples, 2 * gated, length, dtype);
  if (x.numel() == 0) {
    return {grad_x, grad_weight, grad_bias, grad_residual, grad_residual_bias, grad_h};
  }

  weight = torch::stable::contiguous(weight);
  residual_weight = torch::stable::contiguous(residual_weight);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Backward<T> pass{
        shape,
        signals<const T>(grad_y),
        signals<const T>(grad_z),
        signals<const T>(x),
        signals<const T>(z),
        signals<const T>(kept),
        {pointer<const T>(weight), pointer<const T>(residual_weight), nullptr, nullptr},
        signals<T>(grad_h),
        signals<T>(grad_x),
        pointer<T>(grad_weight),
        pointer<T>(grad_residual),
        pointer<T>(grad_bias),
        pointer<T>(grad_residual_bias)};
    DGM_CALL_LIVE_ISA(backward, pass);
  });
  return {grad_x, grad_weight, grad_bias, grad_residual, grad_residual_bias, grad_h};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("wavenet_layer_forward_cpp", TORCH_BOX(&forward));
  m.impl("wavenet_layer_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::wavenet_layer
