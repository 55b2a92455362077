// What an invertible 1x1 convolution is given: images as they lie, and the matrix's parameters.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace dgm::invertible_1x1 {

// (samples, channels, pixels) numbers where they lie; of the strides that of pixels or that of
// channels is 1, or reading is slow.
template <typename T>
struct Images {
  T* data;
  int64_t sample_stride, channel_stride, pixel_stride;
};

struct Sizes {
  int64_t samples, channels, pixels;

  int64_t columns() const { return samples * pixels; }
};

// W in full, or its factors where there is a permutation; then `matrix` is the lower triangle.
struct Parameters {
  const float *matrix, *log_diag, *upper, *sign;
  const int64_t* permutation;
  const float *log_scale, *shift;  // or null
};

template <typename T>
struct Forward {
  Sizes sizes;
  Parameters parameters;
  bool inverse;
  Images<const T> x;
  Images<T> y;
};

// Gradients of the parameters but for what the log-determinant adds; null where not needed.
struct Gradients {
  float *matrix, *log_diag, *upper, *log_scale, *shift;
};

template <typename T>
struct Backward {
  Sizes sizes;
  Parameters parameters;
  bool inverse;
  Images<const T> grad_y;  // no data: zeros
  Images<const T> x;
  Images<T> grad_x;  // or no data
  Gradients gradients;
};

}  // namespace dgm::invertible_1x1
