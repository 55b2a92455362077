// rational_quadratic_spline on the CPU: the operators' boundary. The arithmetic is in spline.h and
// shared.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "rational_quadratic_spline/problem.h"

#define DGM_ISA_SOURCE "rational_quadratic_spline/shared.h"
#include "common/for_each_isa.h"

namespace dgm::spline {
namespace {

using torch::stable::Tensor;

template <typename T>
Elements<const T> elements(const Tensor& t) {
  const T* data = t.numel() == 0 ? nullptr : static_cast<const T*>(t.data_ptr());
  return {data, t.stride(0), t.stride(1), t.stride(2)};
}

template <typename T>
Columns<T> columns(const Tensor& t) {
  if (t.numel() == 0) return {nullptr, 0, 0, 0, 1, 0, nullptr};
  T* const data = static_cast<T*>(t.data_ptr());
  int64_t last = 0;
  for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
  // One sample's are all samples'.
  const int64_t sample = t.size(0) == 1 ? 0 : t.stride(0);
  return {data, sample, t.stride(1), t.stride(2), t.stride(3), t.size(3), data + last + 1};
}

// Whether they are columns of one array, as where a network's output is split.
template <typename T>
bool continues(const Columns<T>& columns, const Columns<T>& next) {
  return columns.data != nullptr && next.data == columns.data + columns.count * columns.column &&
         next.sample == columns.sample && next.outer == columns.outer &&
         next.inner == columns.inner && next.column == columns.column;
}

template <typename F>
void switch_dtypes(const Tensor& x, const Tensor& widths, const F& f) {
  switch_dtype(widths.scalar_type(), [&](auto parameter) {
    if (x.scalar_type() == widths.scalar_type()) return f(parameter, parameter);
    if (x.scalar_type() == ScalarType::Float) return f(Type<float>{}, parameter);
    STD_TORCH_CHECK(false, "rational_quadratic_spline: no kernel for these dtypes");
  });
}

template <typename X, typename P>
Problem<X, P> problem_of(
    const Tensor& x, const Tensor& widths, const std::optional<Tensor>& heights,
    const std::optional<Tensor>& derivatives, const Options& options) {
  Problem<X, P> problem{options, x.size(0), x.size(1), x.size(2), elements<X>(x), 1, {}};
  problem.parameters[0] = columns<const P>(widths);
  if (heights) {
    for (const Tensor* each : {&*heights, &*derivatives}) {
      const auto next = columns<const P>(*each);
      auto& last = problem.parameters[problem.arrays - 1];
      if (continues(last, next)) {
        last.count += next.count;
        last.end = next.end;
      } else {
        problem.parameters[problem.arrays++] = next;
      }
    }
  }
  return problem;
}

Options options_of(
    const Tensor& widths, bool packed, double bound, double min_bin, double min_derivative,
    bool bounded, bool zuko, bool inverse) {
  const int64_t columns = widths.size(3);
  const int64_t bins = packed ? (bounded ? columns - 1 : columns + 1) / 3 : columns;
  return {
      bins,
      static_cast<float>(bound),
      static_cast<float>(min_bin),
      static_cast<float>(min_derivative),
      bounded,
      zuko,
      inverse};
}

std::tuple<Tensor, Tensor> forward(
    Tensor x, Tensor widths, std::optional<Tensor> heights, std::optional<Tensor> derivatives,
    double bound, double min_bin, double min_derivative, bool bounded, bool zuko, bool inverse) {
  const int64_t samples = x.size(0), outer = x.size(1), inner = x.size(2);
  Tensor y = empty_matrix(samples, outer * inner, x.scalar_type());
  Tensor log_det = torch::stable::empty({samples}, ScalarType::Float);
  const Options options =
      options_of(widths, !heights, bound, min_bin, min_derivative, bounded, zuko, inverse);

  switch_dtypes(x, widths, [&](auto x_type, auto parameter_type) {
    using X = typename decltype(x_type)::type;
    using P = typename decltype(parameter_type)::type;
    const auto problem = problem_of<X, P>(x, widths, heights, derivatives, options);
    const Results<X> results{
        static_cast<X*>(y.data_ptr()), static_cast<float*>(log_det.data_ptr())};
    DGM_CALL_LIVE_ISA(forward_spline, problem, results);
  });
  return {torch::stable::view(y, {samples, outer, inner}), log_det};
}

// A dense tensor for the gradient, laid out as `empty_gradient` of op.py says.
Tensor empty_gradient(const Tensor& t) {
  const int64_t samples = t.size(0), outer = t.size(1), inner = t.size(2), count = t.size(3);
  if (t.stride(2) == 1 && t.stride(3) != 1) {
    Tensor planes = empty_matrix(samples * outer * count, inner, t.scalar_type());
    return torch::stable::transpose(
        torch::stable::view(planes, {samples, outer, count, inner}), 2, 3);
  }
  Tensor rows = empty_matrix(samples * outer * inner, count, t.scalar_type());
  return torch::stable::view(rows, {samples, outer, inner, count});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_y, std::optional<Tensor> grad_log_det, Tensor x, Tensor widths,
    std::optional<Tensor> heights, std::optional<Tensor> derivatives, double bound, double min_bin,
    double min_derivative, bool bounded, bool zuko, bool inverse, std::vector<bool> needs) {
  const int64_t samples = x.size(0), outer = x.size(1), inner = x.size(2);
  const Options options =
      options_of(widths, !heights, bound, min_bin, min_derivative, bounded, zuko, inverse);

  const auto none = [&] { return torch::stable::empty({0}, widths.scalar_type()); };
  Tensor grad_x = torch::stable::empty({0}, x.scalar_type());
  if (needs[0]) {
    grad_x = torch::stable::view(
        empty_matrix(samples, outer * inner, x.scalar_type()), {samples, outer, inner});
  }
  Tensor grads[kArrays] = {
      needs[1] ? empty_gradient(widths) : none(), needs[2] ? empty_gradient(*heights) : none(),
      needs[3] ? empty_gradient(*derivatives) : none()};

  switch_dtypes(x, widths, [&](auto x_type, auto parameter_type) {
    using X = typename decltype(x_type)::type;
    using P = typename decltype(parameter_type)::type;
    const auto problem = problem_of<X, P>(x, widths, heights, derivatives, options);
    Gradients<X, P> gradients{};
    if (grad_y) gradients.y = elements<X>(*grad_y);
    if (grad_log_det) {
      gradients.log_det = static_cast<const float*>(grad_log_det->data_ptr());
      gradients.log_det_stride = grad_log_det->stride(0);
    }
    if (needs[0]) gradients.x = static_cast<X*>(grad_x.data_ptr());
    const Tensor* const given[] = {
        &widths, heights ? &*heights : nullptr, derivatives ? &*derivatives : nullptr};
    gradients.arrays = heights ? kArrays : 1;
    for (int i = 0; i < gradients.arrays; ++i) {
      if (needs[i + 1]) gradients.parameters[i] = columns<P>(grads[i]);
      gradients.parameters[i].count = given[i]->size(3);
    }
    if (widths.size(0) == samples) {
      DGM_CALL_LIVE_ISA(backward_spline, problem, gradients);
    } else {
      DGM_CALL_LIVE_ISA(backward_shared_spline, problem, gradients);
    }
  });
  return {grad_x, grads[0], grads[1], grads[2]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("rational_quadratic_spline_forward_cpp", TORCH_BOX(&forward));
  m.impl("rational_quadratic_spline_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::spline
