// Noise as a block of threads takes it: what is given, or drawn where it is used.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/noise.h"
#include "common/philox.h"

namespace dgm::blocks {

// A pair of normals by Box and Muller's transform of two words.
DGM_HOST_DEVICE void box_muller(uint32_t radius_word, uint32_t angle_word, float& z0, float& z1) {
  const float radius = sqrtf(-2.0f * logf(open_uniform_of_word(radius_word)));
  float sine, cosine;
#if defined(__CUDA_ARCH__)
  sincospif(2.0f * turns_of_word(angle_word), &sine, &cosine);
#else
  const double angle = 6.283185307179586 * turns_of_word(angle_word);
  sine = static_cast<float>(std::sin(angle));
  cosine = static_cast<float>(std::cos(angle));
#endif
  z0 = radius * cosine;
  z1 = radius * sine;
}

// Number k of a sample's place: a uniform, or a normal.
DGM_HOST_DEVICE float noise_at(
    const Noise& noise, int64_t sample, int64_t place, int k, bool is_normal = false) {
  if (noise.given != nullptr) return noise.given_at(sample, place)[k];

  const int64_t element = noise.first_place + place;
  uint32_t w0, w1, w2, w3;
  philox_words(
      PhiloxKey(*noise.seed, k), static_cast<uint64_t>(noise.first_sample + sample),
      static_cast<uint32_t>(element / 4), w0, w1, w2, w3);
  const bool is_in_second = (element & 2) != 0, is_odd = (element & 1) != 0;
  const uint32_t even = is_in_second ? w2 : w0, odd = is_in_second ? w3 : w1;
  if (!is_normal) return uniform_of_word(is_odd ? odd : even);
  float z0, z1;
  box_muller(even, odd, z0, z1);
  return is_odd ? z1 : z0;
}

}  // namespace dgm::blocks
