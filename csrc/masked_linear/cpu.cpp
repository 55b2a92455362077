// masked_linear on the CPU: the operators' boundary. The products are in products.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "masked_linear/problem.h"

#define DGM_ISA_SOURCE "masked_linear/products.h"
#include "common/for_each_isa.h"

namespace dgm::masked_linear {
namespace {

using torch::stable::Tensor;

template <typename T>
Matrix<const T> matrix(const Tensor& t) {
  return {static_cast<const T*>(t.data_ptr()), t.stride(0), t.stride(1)};
}

template <typename T>
T* pointer(const Tensor& t) {
  return t.numel() == 0 ? nullptr : static_cast<T*>(t.data_ptr());
}

const int32_t* order(const std::optional<Tensor>& t) {
  return t ? static_cast<const int32_t*>(t->data_ptr()) : nullptr;
}

Staircase staircase(
    const Tensor& weight, const Tensor& row_bound, const Tensor& column_start,
    const std::optional<Tensor>& row_order, const std::optional<Tensor>& column_order,
    const std::optional<Tensor>& mask) {
  STD_TORCH_CHECK(row_bound.numel() == weight.size(0), "row_bound must be (out,)");
  STD_TORCH_CHECK(column_start.numel() == weight.size(1), "column_start must be (in,)");
  STD_TORCH_CHECK(!mask || mask->is_contiguous(), "mask must be contiguous");
  return {
      weight.size(0),
      weight.size(1),
      static_cast<const int32_t*>(row_bound.data_ptr()),
      static_cast<const int32_t*>(column_start.data_ptr()),
      order(row_order),
      order(column_order),
      mask ? static_cast<const bool*>(mask->data_ptr()) : nullptr};
}

Tensor forward(
    Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor row_bound, Tensor column_start,
    std::optional<Tensor> row_order, std::optional<Tensor> column_order,
    std::optional<Tensor> mask) {
  Tensor y = empty_matrix(x.size(0), weight.size(0), x.scalar_type());
  if (y.numel() == 0) return y;
  if (bias) bias = torch::stable::contiguous(*bias);

  const Staircase s = staircase(weight, row_bound, column_start, row_order, column_order, mask);
  switch_dtype(x.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> problem{
        x.size(0),    s, matrix<T>(x), matrix<T>(weight), bias ? pointer<T>(*bias) : nullptr,
        pointer<T>(y)};
    DGM_CALL_LIVE_ISA(forward_product, problem);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    Tensor grad_y, Tensor x, Tensor weight, Tensor row_bound, Tensor column_start,
    std::optional<Tensor> row_order, std::optional<Tensor> column_order, std::optional<Tensor> mask,
    std::vector<bool> needs) {
  const auto dtype = x.scalar_type();
  const int64_t samples = x.size(0), out = weight.size(0), in = weight.size(1);
  Tensor grad_x = needs[0] ? empty_matrix(samples, in, dtype) : torch::stable::empty({0}, dtype);
  Tensor grad_weight = needs[1] ? empty_matrix(out, in, dtype) : torch::stable::empty({0}, dtype);
  Tensor grad_bias = torch::stable::empty({needs[2] ? out : 0}, dtype);

  const Staircase s = staircase(weight, row_bound, column_start, row_order, column_order, mask);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Backward<T> problem{
        samples,
        s,
        matrix<T>(grad_y),
        matrix<T>(x),
        matrix<T>(weight),
        pointer<T>(grad_x),
        pointer<T>(grad_weight),
        pointer<T>(grad_bias)};
    DGM_CALL_LIVE_ISA(backward_products, problem);
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("masked_linear_forward_cpp", TORCH_BOX(&forward));
  m.impl("masked_linear_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::masked_linear
