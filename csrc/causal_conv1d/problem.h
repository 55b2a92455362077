// What the causal convolutions are given. Output t is made of x at t + lead - (k - 1 - j) dilation
// for element j of a kernel: with no lead what lies before x is zero, with a full one all of it is
// in x.
#pragma once

#include <cstdint>
#include <vector>

#include "common/scalar.h"
#include "common/taps.h"

namespace dgm::causal_conv1d {

struct Shape {
  int64_t samples, in, out, kernel, length, dilation, lead;

  int64_t out_length() const { return length - lead; }
};

template <typename T>
struct Forward {
  Shape shape;
  Images<const T> x;
  const T* weight;  // contiguous
  const T* bias;    // or null
  Images<T> y;
};

template <typename T>
struct Backward {
  Shape shape;
  Images<const T> grad, x;
  const T* weight;
  Images<T> grad_x;  // or null, as the next two
  T *grad_weight, *grad_bias;
};

}  // namespace dgm::causal_conv1d
