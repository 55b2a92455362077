// What a pass of affine coupling reads and writes; plain data, the same for every instruction set.
#pragma once

#include <cstdint>

namespace dgm::affine_coupling {

// In the order of `SCALE_MAPS` in op.py; without a log_scale, none.
enum class ScaleMap : int64_t {
  exp,
  tanh,
  scaled_tanh,
  atan,
  soft_clip,
  sigmoid,
  reciprocal_sigmoid,
  softplus,
  none
};

struct Options {
  ScaleMap map;
  float bound, min_scale;
  bool shift_first, inverse;
};

// Lines of contiguous elements, those of one channel or, where channels follow one another without
// a gap in every tensor, of all.
template <typename T>
struct Lines {
  T* data;
  int64_t of_sample, of_channel;  // strides

  T* line(int64_t sample, int64_t channel) const {
    return data + sample * of_sample + channel * of_channel;
  }
};

// The elements of a sample that move and those that stay, each in lines.
struct Part {
  int64_t elements, line;
};

struct Shape {
  int64_t samples;
  Part moved, still;

  int64_t elements() const { return moved.elements + still.elements; }
};

// Of a tensor with x's channels, the lines of the moved part and of the part that stays.
template <typename T>
struct Split {
  Lines<T> moved, still;
};

template <typename T, typename U>
struct Forward {
  Shape shape;
  Options options;
  Split<const T> x;
  Lines<const U> log_scale, shift;
  const bool* mask;
  Split<T> y;
  float* log_det;
  bool streams;  // past the caches: the results do not fit them
};

// Pointers of gradients that do not arrive and of those not needed are null.
template <typename T, typename U>
struct Backward {
  Shape shape;
  Options options;
  Split<const T> grad_y;
  const float* grad_log_det;
  Split<const T> x;
  Lines<const U> log_scale, shift;
  const bool* mask;
  Split<T> grad_x;
  Lines<U> grad_log_scale, grad_shift;
  bool streams;
};

}  // namespace dgm::affine_coupling
