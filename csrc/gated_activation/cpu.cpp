// The gate on the CPU: the operators' boundary. The arithmetic is in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/isa.h"
#include "common/samples.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "gated_activation/problem.h"

#define DGM_ISA_SOURCE "gated_activation/passes.h"
#include "common/for_each_isa.h"

namespace dgm::gated_activation {
namespace {

using torch::stable::Tensor;

// The half of each row that begins at element `begin`.
template <typename Char>
Rows<Char> half(const Tensor& t, int64_t begin) {
  Rows<Char> rows = rows_of<Char>(t);
  rows.data = rows.at(0, begin);
  return rows;
}

Tensor forward(Tensor x) {
  x = in_rows(x);
  const int64_t samples = x.size(0), elements = x.size(1) / 2;
  Tensor y = empty_matrix(samples, elements, x.scalar_type());
  if (y.numel() == 0) return y;

  const Forward pass{
      samples, elements, half<const char>(x, 0), half<const char>(x, elements), rows_of<char>(y)};
  DGM_CALL_LIVE_ISA(gating::forward, pass);
  return y;
}

Tensor backward(Tensor grad_y, Tensor x, std::vector<bool> /* needs */) {
  x = in_rows(x);
  grad_y = in_rows(grad_y);
  const int64_t samples = x.size(0), elements = x.size(1) / 2;
  Tensor grad_x = empty_matrix(samples, 2 * elements, x.scalar_type());
  if (grad_x.numel() == 0) return grad_x;

  const Backward pass{
      samples,
      elements,
      rows_of<const char>(grad_y),
      half<const char>(x, 0),
      half<const char>(x, elements),
      half<char>(grad_x, 0),
      half<char>(grad_x, elements)};
  DGM_CALL_LIVE_ISA(gating::backward, pass);
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("gated_activation_forward_cpp", TORCH_BOX(&forward));
  m.impl("gated_activation_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::gated_activation
