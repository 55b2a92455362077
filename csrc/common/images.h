// Tensors as images and signals: what operators on convolutions have at their boundary.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <type_traits>

#include "common/scalar.h"
#include "common/stock.h"
#include "common/taps.h"

namespace dgm {

// The data of a tensor, or null where it has none or is absent.
template <typename T>
T* pointer(const torch::stable::Tensor& t) {
  return t.numel() == 0 ? nullptr : static_cast<T*>(t.data_ptr());
}

template <typename T>
T* pointer(const std::optional<torch::stable::Tensor>& t) {
  return t ? pointer<T>(*t) : nullptr;
}

inline std::optional<torch::stable::Tensor> contiguous(
    const std::optional<torch::stable::Tensor>& t) {
  return t ? std::optional(torch::stable::contiguous(*t)) : std::nullopt;
}

// Images (B, C, H, W), or none where there are no elements. A side of one takes no step.
template <typename T>
Images<T> images(const torch::stable::Tensor& t) {
  return {
      pointer<T>(t),
      t.stride(0),
      t.stride(1),
      t.size(2) > 1 ? t.stride(2) : 0,
      t.size(3) > 1 ? t.stride(3) : 1,
      !std::is_const_v<T> && is_large(t)};
}

// Signals (B, C, T): images of one column. One of a single time is the same at all.
template <typename T>
Images<T> signals(const torch::stable::Tensor& t) {
  const int64_t step = t.size(2) > 1 ? t.stride(2) : 0;
  return {pointer<T>(t), t.stride(0), t.stride(1), step, step, !std::is_const_v<T> && is_large(t)};
}

template <typename T>
Images<T> images(const std::optional<torch::stable::Tensor>& t) {
  return t ? images<T>(*t) : Images<T>{};
}

template <typename T>
Images<T> signals(const std::optional<torch::stable::Tensor>& t) {
  return t ? signals<T>(*t) : Images<T>{};
}

inline torch::stable::Tensor empty_images(
    int64_t samples, int64_t channels, int64_t height, int64_t width, bool channels_last,
    ScalarType dtype) {
  using torch::stable::transpose;
  using torch::stable::view;
  const auto t = empty_matrix(samples, channels * height * width, dtype);
  if (!channels_last) return view(t, {samples, channels, height, width});
  return transpose(transpose(view(t, {samples, height, width, channels}), 1, 3), 2, 3);
}

inline torch::stable::Tensor empty_signals(
    int64_t samples, int64_t channels, int64_t length, ScalarType dtype) {
  return torch::stable::view(
      empty_matrix(samples, channels * length, dtype), {samples, channels, length});
}

// Signals' places, one after another.
inline Grid signal_grid(int64_t samples, int64_t length) { return {samples, length, 1, 1}; }

}  // namespace dgm
