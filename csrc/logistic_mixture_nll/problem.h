// What a pass over images reads and writes; plain data, the same for every instruction set.
#pragma once

#include <cstdint>

namespace dgm::logistic_mixture_nll {

// (samples, channels, pixels), whose pixels touch.
template <typename T>
struct Planes {
  T* data;
  int64_t of_sample, of_channel;  // strides

  T* at(int64_t sample, int64_t channel) const {
    return data + sample * of_sample + channel * of_channel;
  }
};

template <typename T>
struct Inputs {
  int64_t samples, pixels, components;
  Planes<const float> x;
  Planes<const T> params;
};

template <typename T>
struct Backward {
  Inputs<T> in;
  const float* grad_nll;
  int64_t grad_step;
  Planes<T> grad_params;
  bool streams;  // past the caches: the result does not fit them
};

}  // namespace dgm::logistic_mixture_nll
