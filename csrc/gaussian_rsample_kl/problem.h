// What the boundary of gaussian_rsample_kl hands to its arithmetic.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace dgm::gaussian_rsample_kl {

// One row of elements a sample; with a step of 0 one row serves all samples.
template <typename T>
struct Rows {
  T* data;  // null where absent
  int64_t step;

  T* row(int64_t sample) const { return data + sample * step; }
  bool is_shared() const { return data != nullptr && step == 0; }
  explicit operator bool() const { return data != nullptr; }
};

// Given, in a dtype of its own with the step in bytes, or drawn.
struct Noise {
  Rows<const char> given;
  ScalarType dtype;
  int64_t seed, sample_offset, stream;
};

template <typename T>
struct Inputs {
  int64_t samples, elements;
  Rows<const T> mean, log_var, prior_mean, prior_log_var;
  Noise noise;
  bool monte_carlo;
  float free_bits;
};

template <typename T>
struct Forward {
  Inputs<T> in;
  Rows<T> z;
  float* kl;
  bool streams;  // past the caches: the results do not fit them
};

// Absent gradients of results count as zero, absent gradients of inputs are not wanted.
template <typename T>
struct Backward {
  Inputs<T> in;
  Rows<const T> grad_z;
  const float* grad_kl;
  Rows<T> grad_mean, grad_log_var, grad_prior_mean, grad_prior_log_var;
  bool streams;
};

}  // namespace dgm::gaussian_rsample_kl
