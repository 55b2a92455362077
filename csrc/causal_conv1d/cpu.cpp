// causal_conv1d on the CPU: the operators' boundary. The sums are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "causal_conv1d/problem.h"
#include "common/buffer.h"
#include "common/images.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"

#define DGM_ISA_SOURCE "causal_conv1d/passes.h"
#include "common/for_each_isa.h"

namespace dgm::causal_conv1d {
namespace {

using torch::stable::Tensor;

Shape shape_of(const Tensor& x, const Tensor& weight, int64_t dilation, int64_t lead) {
  return {x.size(0), x.size(1), weight.size(0), weight.size(2), x.size(2), dilation, lead};
}

bool is_depthwise(const Tensor& x, const Tensor& weight) { return weight.size(1) != x.size(1); }

Tensor forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t dilation, int64_t lead) {
  const Shape shape = shape_of(x, weight, dilation, lead);
  Tensor y = empty_signals(shape.samples, shape.out, shape.out_length(), x.scalar_type());
  if (y.numel() == 0) return y;

  weight = torch::stable::contiguous(weight);
  bias = contiguous(bias);
  switch_dtype(x.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> pass{
        shape, signals<const T>(x), pointer<const T>(weight), pointer<const T>(bias),
        signals<T>(y)};
    if (is_depthwise(x, weight)) {
      DGM_CALL_LIVE_ISA(depthwise_forward, pass);
    } else {
      DGM_CALL_LIVE_ISA(forward, pass);
    }
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    Tensor grad_y, Tensor x, Tensor weight, std::optional<Tensor> /* bias */, int64_t dilation,
    int64_t lead, std::vector<bool> needs) {
  const Shape shape = shape_of(x, weight, dilation, lead);
  const ScalarType dtype = x.scalar_type();
  Tensor grad_x = empty_signals(needs[0] ? shape.samples : 0, shape.in, shape.length, dtype);
  Tensor grad_weight =
      torch::stable::empty({needs[1] ? shape.out : 0, weight.size(1), shape.kernel}, dtype);
  Tensor grad_bias = torch::stable::empty({needs[2] ? shape.out : 0}, dtype);

  weight = torch::stable::contiguous(weight);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Backward<T> pass{
        shape,
        signals<const T>(grad_y),
        signals<const T>(x),
        pointer<const T>(weight),
        signals<T>(grad_x),
        pointer<T>(grad_weight),
        pointer<T>(grad_bias)};
    if (is_depthwise(x, weight)) {
      DGM_CALL_LIVE_ISA(depthwise_backward, pass);
    } else {
      DGM_CALL_LIVE_ISA(backward, pass);
    }
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("causal_conv1d_forward_cpp", TORCH_BOX(&forward));
  m.impl("causal_conv1d_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::causal_conv1d
