// The noise that decides a sampler's draws.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dgm {

// Numbers (samples, places, each): given, or what a seed stands for, which a block of threads draws
// where it uses it.
struct Noise {
  const float* given;
  const int64_t* seed;  // where none is given, or null; it lies where the samples do
  // Stream k of the seed is number k of each place; its samples and elements, from these on.
  int64_t first_sample, first_place;
  int64_t places, each;  // `each` of what is given

  DGM_HOST_DEVICE bool is_there() const { return given != nullptr || seed != nullptr; }
  // Where the first number of a sample's place lies.
  DGM_HOST_DEVICE const float* given_at(int64_t sample, int64_t place) const {
    return given + (sample * places + place) * each;
  }
};

}  // namespace dgm
