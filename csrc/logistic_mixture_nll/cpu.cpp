// The discretized mixture of logistics on the CPU: the operators' boundary. The arithmetic is in
// bins.h and passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/samples.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "logistic_mixture_nll/problem.h"

#define DGM_ISA_SOURCE "logistic_mixture_nll/passes.h"
#include "common/for_each_isa.h"

namespace dgm::logistic_mixture_nll {
namespace {

using torch::stable::Tensor;

// Returns t (B, C, P), copied unless the pixels of a plane touch.
Tensor in_planes(const Tensor& t) {
  return t.size(2) > 1 && t.stride(2) != 1 ? torch::stable::contiguous(t) : t;
}

template <typename T>
Planes<T> planes(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1)};
}

template <typename T>
Inputs<T> inputs(const Tensor& x, const Tensor& params) {
  const int64_t each = x.size(1) == 1 ? 3 : 10;
  return {
      x.size(0), x.size(2), params.size(1) / each, planes<const float>(x), planes<const T>(params)};
}

Tensor forward(Tensor x, Tensor params) {
  Tensor nll = torch::stable::empty({x.size(0)}, ScalarType::Float);
  float* out = static_cast<float*>(nll.data_ptr());
  std::fill_n(out, x.size(0), 0.0f);
  if (x.numel() == 0) return nll;

  x = in_planes(x);
  params = in_planes(params);
  switch_dtype(params.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Inputs<T> in = inputs<T>(x, params);
    DGM_CALL_LIVE_ISA(forward, in, x.size(1), out);
  });
  return nll;
}

Tensor backward(
    std::optional<Tensor> grad_nll, Tensor x, Tensor params, std::vector<bool> /* needs */) {
  const int64_t samples = params.size(0), planes_of = params.size(1), pixels = params.size(2);
  Tensor grad_params = torch::stable::view(
      empty_matrix(samples, planes_of * pixels, params.scalar_type()),
      {samples, planes_of, pixels});
  if (params.numel() == 0) return grad_params;

  x = in_planes(x);
  params = in_planes(params);
  switch_dtype(params.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Backward<T> pass{
        inputs<T>(x, params), static_cast<const float*>(grad_nll->data_ptr()), grad_nll->stride(0),
        planes<T>(grad_params), is_large(grad_params)};
    DGM_CALL_LIVE_ISA(backward, pass, x.size(1));
  });
  return grad_params;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("logistic_mixture_nll_forward_cpp", TORCH_BOX(&forward));
  m.impl("logistic_mixture_nll_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::logistic_mixture_nll
