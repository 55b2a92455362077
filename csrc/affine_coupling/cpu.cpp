// Affine coupling on the CPU: the operators' boundary. The passes are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "affine_coupling/problem.h"
#include "common/isa.h"
#include "common/samples.h"
#include "common/scalar.h"
#include "common/stock.h"

#define DGM_ISA_SOURCE "affine_coupling/passes.h"
#include "common/for_each_isa.h"

namespace dgm::affine_coupling {
namespace {

using torch::stable::Tensor;

int64_t channels_of(const Tensor& t) { return t.dim() > 1 ? t.size(1) : 1; }

// Elements of one channel.
int64_t inner_of(const Tensor& t) {
  int64_t inner = 1;
  for (int64_t d = 2; d < t.dim(); ++d) inner *= t.size(d);
  return inner;
}

int64_t channel_stride(const Tensor& t) { return channels_of(t) > 1 ? t.stride(1) : inner_of(t); }

bool channels_touch(const Tensor& t) { return channel_stride(t) == inner_of(t); }

// Returns t, copied unless each of its channels is contiguous and long enough to be worth a line.
Tensor in_lines(const Tensor& t) {
  constexpr int64_t kShort = 16;
  int64_t expected = 1;
  bool lines = t.numel() > 0;
  for (int64_t d = t.dim() - 1; d > 1; --d) {
    lines = lines && (t.size(d) == 1 || t.stride(d) == expected);
    expected *= t.size(d);
  }
  lines = lines && (channels_touch(t) || expected >= kShort);
  return lines ? t : torch::stable::contiguous(t);
}

Tensor fresh_like(const Tensor& t) {
  const int64_t samples = t.size(0), elements = channels_of(t) * inner_of(t);
  return torch::stable::view(empty_matrix(samples, elements, t.scalar_type()), t.sizes());
}

// The lines of channels [first, ...) of a tensor, or of none.
template <typename T, typename Optional>
Lines<T> lines_of(const Optional& t, int64_t first = 0) {
  if (!t || t->numel() == 0) return {nullptr, 0, 0};
  const int64_t stride = channel_stride(*t);
  return {static_cast<T*>(t->data_ptr()) + first * stride, t->stride(0), stride};
}

// What both passes are told beside their tensors.
struct Call {
  Shape shape;
  Options options;
  int64_t moved_first, still_first;  // channels

  Call(
      const Tensor& x, const Tensor& shift, int64_t map, double bound, double min_scale, bool last,
      bool shift_first, bool inverse, bool has_scale, bool touch) {
    const int64_t inner = inner_of(x), moved = channels_of(shift), still = channels_of(x) - moved;
    moved_first = last ? still : 0;
    still_first = last ? 0 : moved;
    shape = {
        x.size(0),
        {moved * inner, touch ? moved * inner : inner},
        {still * inner, touch ? still * inner : inner}};
    options = {
        has_scale ? static_cast<ScaleMap>(map) : ScaleMap::none, static_cast<float>(bound),
        static_cast<float>(min_scale), shift_first, inverse};
  }

  template <typename T, typename Optional>
  Split<T> split(const Optional& t) const {
    return {lines_of<T>(t, moved_first), lines_of<T>(t, still_first)};
  }
};

// Calls f(Type<T>{}, Type<U>{}) for data of one dtype and parameters of the same or of 16 bits.
template <typename F>
void switch_dtypes(const Tensor& x, const Tensor& shift, const F& f) {
  switch_dtype(shift.scalar_type(), [&](auto parameter) {
    if (x.scalar_type() == shift.scalar_type()) return f(parameter, parameter);
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "dgm_fast: no kernel for these dtypes");
    f(Type<float>{}, parameter);
  });
}

std::tuple<Tensor, Tensor> forward(
    Tensor x, std::optional<Tensor> log_scale, Tensor shift, std::optional<Tensor> mask,
    int64_t scale_map, double bound, double min_scale, bool last, bool shift_first, bool inverse) {
  x = in_lines(x);
  shift = in_lines(shift);
  if (log_scale) log_scale = in_lines(*log_scale);
  Tensor y = fresh_like(x);
  Tensor log_det = torch::stable::empty({x.size(0)}, ScalarType::Float);

  const bool touch =
      channels_touch(x) && channels_touch(shift) && (!log_scale || channels_touch(*log_scale));
  const Call call(
      x, shift, scale_map, bound, min_scale, last, shift_first, inverse, log_scale.has_value(),
      touch);
  switch_dtypes(x, shift, [&](auto data, auto parameter) {
    using T = typename decltype(data)::type;
    using U = typename decltype(parameter)::type;
    const Forward<T, U> pass{
        call.shape,
        call.options,
        call.split<const T>(std::optional(x)),
        lines_of<const U>(log_scale),
        lines_of<const U>(std::optional(shift)),
        mask ? static_cast<const bool*>(mask->data_ptr()) : nullptr,
        call.split<T>(std::optional(y)),
        static_cast<float*>(log_det.data_ptr()),
        is_large(y)};
    DGM_CALL_LIVE_ISA(forward_pass, pass);
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_y, std::optional<Tensor> grad_log_det, Tensor x,
    std::optional<Tensor> log_scale, Tensor shift, std::optional<Tensor> mask, int64_t scale_map,
    double bound, double min_scale, bool last, bool shift_first, bool inverse,
    std::vector<bool> needs) {
  x = in_lines(x);
  shift = in_lines(shift);
  if (log_scale) log_scale = in_lines(*log_scale);
  if (grad_y) grad_y = in_lines(*grad_y);
  if (grad_log_det) grad_log_det = torch::stable::contiguous(*grad_log_det);

  const auto gradient = [](bool needed, const Tensor& like) {
    return needed ? std::optional(fresh_like(like)) : std::nullopt;
  };
  const auto grad_x = gradient(needs[0], x);
  const auto grad_log_scale = gradient(needs[1], shift);
  const auto grad_shift = gradient(needs[2], shift);

  const bool touch = channels_touch(x) && channels_touch(shift) &&
                     (!log_scale || channels_touch(*log_scale)) &&
                     (!grad_y || channels_touch(*grad_y));
  const Call call(
      x, shift, scale_map, bound, min_scale, last, shift_first, inverse, log_scale.has_value(),
      touch);
  switch_dtypes(x, shift, [&](auto data, auto parameter) {
    using T = typename decltype(data)::type;
    using U = typename decltype(parameter)::type;
    const Backward<T, U> pass{
        call.shape,
        call.options,
        call.split<const T>(grad_y),
        grad_log_det ? static_cast<const float*>(grad_log_det->data_ptr()) : nullptr,
        call.split<const T>(std::optional(x)),
        lines_of<const U>(log_scale),
        lines_of<const U>(std::optional(shift)),
        mask ? static_cast<const bool*>(mask->data_ptr()) : nullptr,
        call.split<T>(grad_x),
        lines_of<U>(grad_log_scale),
        lines_of<U>(grad_shift),
        is_large(x)};
    DGM_CALL_LIVE_ISA(backward_pass, pass);
  });

  const auto result = [&](const std::optional<Tensor>& t) {
    return t ? *t : torch::stable::empty({0}, x.scalar_type());
  };
  return {result(grad_x), result(grad_log_scale), result(grad_shift)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("affine_coupling_forward_cpp", TORCH_BOX(&forward));
  m.impl("affine_coupling_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::affine_coupling
