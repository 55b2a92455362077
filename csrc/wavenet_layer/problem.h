// What a layer of WaveNet is given.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/taps.h"

namespace dgm::wavenet_layer {

// Channels of x and of z; the convolution has 2 `gated` outputs.
struct Shape {
  int64_t samples, channels, gated, kernel, length, dilation;
};

template <typename T>
struct Weights {
  const T *conv, *residual;            // (2 gated, channels, kernel), (channels, gated)
  const T *conv_bias, *residual_bias;  // or null
};

template <typename T>
struct Forward {
  Shape shape;
  Images<const T> x;
  Weights<T> weights;
  Images<const T> condition;  // or null
  Images<T> y, z, kept;       // `kept`: what the gate was given, or null
};

// Gradients arrive by y, or null, and by z, or null.
template <typename T>
struct Backward {
  Shape shape;
  Images<const T> grad_y, grad_z;
  Images<const T> x, z, kept;
  Weights<T> weights;
  Images<T> grad_h;  // of what the gate was given
  Images<T> grad_x;  // or null, as what follows
  T *grad_conv, *grad_residual, *grad_conv_bias, *grad_residual_bias;
};

}  // namespace dgm::wavenet_layer
