// Tensors as one row of elements a sample, of a dtype known at run time.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <type_traits>

#include "common/scalar.h"
#include "common/stock.h"

namespace dgm {

inline int64_t item_bytes(ScalarType dtype) {
  return dtype == ScalarType::Byte ? 1 : bytes_of(dtype);
}

// Char is char, or const char for rows that are only read.
template <typename Char>
struct Rows {
  Char* data = nullptr;  // null where absent
  ScalarType dtype = ScalarType::Float;
  int64_t step = 0;      // in bytes, from row to row
  bool streams = false;  // written past the caches

  explicit operator bool() const { return data != nullptr; }

  Char* at(int64_t sample, int64_t element) const {
    return data + sample * step + element * item_bytes(dtype);
  }
};

// Returns t (rows, columns), copied unless its rows are contiguous.
inline torch::stable::Tensor in_rows(const torch::stable::Tensor& t) {
  return t.size(1) > 1 && t.stride(1) != 1 ? torch::stable::contiguous(t) : t;
}

template <typename Char>
Rows<Char> rows_of(const torch::stable::Tensor& t) {
  const ScalarType dtype = t.scalar_type();
  const bool streams = !std::is_const_v<Char> && is_large(t);
  return {static_cast<Char*>(t.data_ptr()), dtype, t.stride(0) * item_bytes(dtype), streams};
}

// Noise that is given, or else drawn where it is used.
struct Noise {
  Rows<const char> given;
  int64_t seed = 0, sample_offset = 0, stream = 0;
};

// Without either tensor there is none.
inline Noise noise_of(
    const std::optional<torch::stable::Tensor>& given,
    const std::optional<torch::stable::Tensor>& seed, int64_t sample_offset, int64_t stream) {
  Noise noise{{}, 0, sample_offset, stream};
  if (given) noise.given = rows_of<const char>(*given);
  if (seed) noise.seed = *static_cast<const int64_t*>(seed->data_ptr());
  return noise;
}

}  // namespace dgm
