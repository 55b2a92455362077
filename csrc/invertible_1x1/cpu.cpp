// Invertible 1x1 convolutions on the CPU: the operators' boundary. The arithmetic is in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "invertible_1x1/problem.h"

#define DGM_ISA_SOURCE "invertible_1x1/passes.h"
#include "common/for_each_isa.h"

namespace dgm::invertible_1x1 {
namespace {

using torch::stable::Tensor;

// One pixel a sample is one sample of that many pixels, whose channels lie side by side.
Sizes sizes_of(const Tensor& x) {
  const int64_t samples = x.size(0), channels = x.size(1), pixels = x.size(2);
  return pixels == 1 ? Sizes{1, channels, samples} : Sizes{samples, channels, pixels};
}

template <typename T>
Images<T> images(const Tensor& t) {
  T* data = static_cast<T*>(t.data_ptr());
  if (t.size(2) == 1) return {data, 0, t.stride(1), t.stride(0)};
  return {data, t.stride(0), t.stride(1), t.stride(2)};
}

// The parameters, contiguous, and kept alive.
struct Held {
  std::vector<Tensor> tensors;

  const Tensor* hold(const std::optional<Tensor>& t) {
    if (!t) return nullptr;
    tensors.push_back(torch::stable::contiguous(*t));
    return &tensors.back();
  }
};

Parameters parameters_of(
    Held& held, const Tensor& matrix, const Tensor& log_diag, const std::optional<Tensor>& upper,
    const std::optional<Tensor>& sign, const std::optional<Tensor>& permutation,
    const std::optional<Tensor>& log_scale, const std::optional<Tensor>& shift) {
  held.tensors.reserve(7);
  const auto floats = [&](const std::optional<Tensor>& t) {
    const Tensor* kept = held.hold(t);
    return kept ? static_cast<const float*>(kept->data_ptr()) : nullptr;
  };
  const Tensor* order = held.hold(permutation);
  return {
      floats(matrix),
      floats(log_diag),
      floats(upper),
      floats(sign),
      order ? static_cast<const int64_t*>(order->data_ptr()) : nullptr,
      floats(log_scale),
      floats(shift)};
}

double sum(const float* values, int64_t count) {
  return values ? std::accumulate(values, values + count, 0.0) : 0.0;
}

// A result shaped like x, contiguous; large ones come from the stock.
Tensor empty_images(const Tensor& x) {
  Tensor flat = empty_matrix(x.size(0), x.size(1) * x.size(2), x.scalar_type());
  return torch::stable::view(flat, {x.size(0), x.size(1), x.size(2)});
}

std::tuple<Tensor, Tensor> forward(
    Tensor x, Tensor matrix, Tensor log_diag, std::optional<Tensor> upper,
    std::optional<Tensor> sign, std::optional<Tensor> permutation, std::optional<Tensor> log_scale,
    std::optional<Tensor> shift, bool inverse) {
  Held held;
  const Parameters parameters =
      parameters_of(held, matrix, log_diag, upper, sign, permutation, log_scale, shift);

  Tensor log_det = torch::stable::empty({x.size(0)}, ScalarType::Float);
  const double per_pixel =
      sum(parameters.log_diag, log_diag.numel()) + sum(parameters.log_scale, x.size(1));
  const double total = (inverse ? -1.0 : 1.0) * static_cast<double>(x.size(2)) * per_pixel;
  std::fill_n(static_cast<float*>(log_det.data_ptr()), x.size(0), static_cast<float>(total));

  Tensor y = empty_images(x);
  if (y.numel() == 0) return {y, log_det};

  switch_dtype(x.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> problem{sizes_of(x), parameters, inverse, images<const T>(x), images<T>(y)};
    DGM_CALL_LIVE_ISA(forward, problem);
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_y, std::optional<Tensor> grad_log_det, Tensor x, Tensor matrix,
    Tensor log_diag, std::optional<Tensor> upper, std::optional<Tensor> sign,
    std::optional<Tensor> permutation, std::optional<Tensor> log_scale, std::optional<Tensor> shift,
    bool inverse, std::vector<bool> needs) {
  Held held;
  const Parameters parameters =
      parameters_of(held, matrix, log_diag, upper, sign, permutation, log_scale, shift);

  Tensor grad_x = needs[0] ? empty_images(x) : torch::stable::empty({0}, x.scalar_type());
  const auto make = [&](int place, const std::optional<Tensor>& like) {
    std::vector<int64_t> sizes{0};
    if (needs[place] && like) sizes.assign(like->sizes().begin(), like->sizes().end());
    Tensor found = torch::stable::empty(sizes, ScalarType::Float);
    std::fill_n(static_cast<float*>(found.data_ptr()), found.numel(), 0.0f);
    return found;
  };
  Tensor found[] = {
      make(1, matrix), make(2, log_diag), make(3, upper), make(4, log_scale), make(5, shift)};
  const auto place = [&](int i) {
    return found[i].numel() ? static_cast<float*>(found[i].data_ptr()) : nullptr;
  };

  if (x.numel() != 0) {
    switch_dtype(x.scalar_type(), [&](auto type) {
      using T = typename decltype(type)::type;
      const Images<const T> nothing{};
      const Backward<T> problem{
          sizes_of(x),
          parameters,
          inverse,
          grad_y ? images<const T>(*grad_y) : nothing,
          images<const T>(x),
          needs[0] ? images<T>(grad_x) : Images<T>{},
          {place(0), permutation ? place(1) : nullptr, place(2), place(3), place(4)}};
      if (grad_y) {
        DGM_CALL_LIVE_ISA(backward, problem);
      } else if (needs[0]) {
        std::fill_n(static_cast<T*>(grad_x.data_ptr()), grad_x.numel(), static_cast<T>(0.0f));
      }
    });
  }

  if (grad_log_det) {
    const Tensor grads = torch::stable::contiguous(*grad_log_det);
    const double slope = (inverse ? -1.0 : 1.0) * static_cast<double>(x.size(2)) *
                         sum(static_cast<const float*>(grads.data_ptr()), grads.numel());
    for (const int i : {1, 3}) {
      for (int64_t j = 0; j < found[i].numel(); ++j) place(i)[j] += static_cast<float>(slope);
    }
  }
  return {grad_x, found[0], found[1], found[2], found[3], found[4]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("invertible_1x1_forward_cpp", TORCH_BOX(&forward));
  m.impl("invertible_1x1_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::invertible_1x1
