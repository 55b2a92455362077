// A diffusion's schedule: tables of alpha and sigma, and the step of each sample.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>

#include "common/scalar.h"

namespace dgm {

class Table {
 public:
  Table() = default;
  explicit Table(const torch::stable::Tensor& t)
      : data_(t.data_ptr()),
        count_(t.size(0)),
        stride_(t.stride(0)),
        is_double_(t.scalar_type() == ScalarType::Double) {}

  explicit operator bool() const { return data_ != nullptr; }

  // The entry of a step, NaN outside the table.
  double at(int64_t step) const {
    if (step < 0 || step >= count_) return std::nan("");
    const int64_t i = step * stride_;
    return is_double_ ? static_cast<const double*>(data_)[i] : static_cast<const float*>(data_)[i];
  }

 private:
  const void* data_ = nullptr;
  int64_t count_ = 0, stride_ = 0;
  bool is_double_ = false;
};

class Steps {
 public:
  Steps() = default;
  explicit Steps(const torch::stable::Tensor& t)
      : data_(t.data_ptr()), stride_(t.stride(0)), is_int_(t.scalar_type() == ScalarType::Int) {}

  explicit operator bool() const { return data_ != nullptr; }

  int64_t at(int64_t sample) const {
    const int64_t i = sample * stride_;
    return is_int_ ? static_cast<const int32_t*>(data_)[i] : static_cast<const int64_t*>(data_)[i];
  }

 private:
  const void* data_ = nullptr;
  int64_t stride_ = 0;
  bool is_int_ = false;
};

// What a network is trained to predict; the order is that of TARGETS in dgm_fast/_core/schedule.py.
enum class Target : int64_t { noise, velocity, x0, nothing };

}  // namespace dgm
