// What the masked convolutions are given.
#pragma once

#include <cstdint>
#include <vector>

#include "common/scalar.h"
#include "common/taps.h"

namespace dgm::masked_conv2d {

// The live part of a kernel: its taps, and at the centre an order of channels. Inputs, and each of
// the `parts` of the outputs (two under a gate), come in `groups` of equal size; group g of the
// outputs sees the groups before it there, and itself unless `strict`.
struct Mask {
  std::vector<Tap> taps;
  int64_t in, out, kernel;  // channels; elements of a kernel
  int64_t groups, parts;
  bool strict;

  bool operator()(const Tap& tap, int64_t o, int64_t c) const {
    const int64_t of_out = o % (out / parts) / (out / parts / groups), of_in = c / (in / groups);
    return !tap.centre || of_in < of_out + !strict;
  }
};

template <typename T>
struct Forward {
  Grid grid;
  const Mask& mask;
  Images<const T> x;
  const T* weight;  // contiguous
  const T* bias;    // or null
  Images<const T> residual;
  Images<T> y, kept;  // `kept`: what the gate was given, or null
  bool gated;
};

// The gradient of tanh(a) sigmoid(b) for a, b in halves of `kept`.
template <typename T>
struct Gate {
  Grid grid;
  int64_t channels;  // of y
  Images<const T> grad_y, kept;
  Images<T> grad;
};

template <typename T>
struct Backward {
  Grid grid;
  const Mask& mask;
  Images<const T> grad;  // of what the gate was given
  Images<const T> x;
  const T* weight;
  Images<T> grad_x;  // or null, as the next two
  T *grad_weight, *grad_bias;
};

}  // namespace dgm::masked_conv2d
