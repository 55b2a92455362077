// What the density of a mixture is given: rows of points, and of components.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace dgm::gaussian_mixture_log_prob {

// A matrix where it lies, of any strides.
template <typename T>
struct Matrix {
  const T* data;
  int64_t row_stride, column_stride;
};

// B rows of z, K components, D dims.
template <typename T>
struct Forward {
  int64_t rows, components, dims;
  Matrix<T> z, means, log_vars, log_weights;  // of the last, one column
  float* log_prob;                            // (B,)
};

// Gradients are contiguous; null where not needed.
template <typename T>
struct Backward {
  Forward<T> forward;  // log_prob is not written
  const float* grad;   // (B,)
  T *z, *means, *log_vars, *log_weights;
};

}  // namespace dgm::gaussian_mixture_log_prob
