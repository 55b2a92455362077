// What a spline kernel is called with: strided tensors, and the spline's constants.
#pragma once

#include <cstdint>

namespace dgm::spline {

struct Options {
  int64_t bins;
  float bound;
  float min_bin;
  float min_derivative;
  bool bounded;  // no tails: the outermost slopes are parameters
  bool zuko;     // its parametrization
  bool inverse;
};

// Elements (sample, outer, inner).
template <typename T>
struct Elements {
  T* data;  // may be null
  int64_t sample, outer, inner;

  T* row(int64_t s, int64_t o) const { return data + s * sample + o * outer; }
};

// `count` numbers of each element (sample, outer, inner); nothing of them lies at `end` or after.
template <typename T>
struct Columns {
  T* data;  // may be null
  int64_t sample, outer, inner, column, count;
  T* end;

  T* row(int64_t s, int64_t o) const { return data + s * sample + o * outer; }
};

constexpr int kArrays = 3;

// Widths, heights and derivatives are the columns of one array, or of up to an array each.
template <typename X, typename P>
struct Problem {
  Options options;
  int64_t samples, outer, inner;
  Elements<const X> x;
  int arrays;
  Columns<const P> parameters[kArrays];
};

template <typename X>
struct Results {
  X* y;            // dense
  float* log_det;  // (samples,)
};

// Those of parameters are of one array or of three, whichever were given; they are laid out as what
// they are gradients of would be if it were dense.
template <typename X, typename P>
struct Gradients {
  Elements<const X> y;
  const float* log_det;  // may be null
  int64_t log_det_stride;
  X* x;  // dense; may be null
  int arrays;
  Columns<P> parameters[kArrays];
};

}  // namespace dgm::spline
