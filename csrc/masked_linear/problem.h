// What the masked products are given: matrices as they lie, and the staircase of the mask.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace dgm::masked_linear {

// A matrix where it lies, of any strides.
template <typename T>
struct Matrix {
  T* data;
  int64_t row_stride, column_stride;

  T& at(int64_t row, int64_t column) const {
    return data[row * row_stride + column * column_stride];
  }
};

// Sorted row r is live in sorted columns [0, row_bound[r]), and there only where `mask` says if
// it is given; sorted column c is live in sorted rows [column_start[c], out) likewise. An order
// maps sorted places to those of the weight; null means they agree.
struct Staircase {
  int64_t out, in;
  const int32_t *row_bound, *column_start, *row_order, *column_order;
  const bool* mask;

  int64_t row(int64_t sorted) const { return row_order ? row_order[sorted] : sorted; }
  int64_t column(int64_t sorted) const { return column_order ? column_order[sorted] : sorted; }
  bool live(int64_t row, int64_t column) const { return !mask || mask[row * in + column]; }
};

template <typename T>
struct Forward {
  int64_t samples;
  Staircase staircase;
  Matrix<const T> x, weight;
  const T* bias;  // or null
  T* y;           // (samples, out), contiguous
};

template <typename T>
struct Backward {
  int64_t samples;
  Staircase staircase;
  Matrix<const T> grad_y, x, weight;
  T *grad_x, *grad_weight, *grad_bias;  // contiguous; null where not needed
};

}  // namespace dgm::masked_linear
