// How many samples a block of threads takes through a model together.
#pragma once

#include <cstdint>
#include <type_traits>

namespace dgm::blocks {

constexpr int kMostSamples = 8;

// As few as leave half of the processors without a block, because all of them want more weights
// than the cache gives, and no more than the memory holds, of `bytes_of(samples)`, that its threads
// share.
template <typename BytesOf>
int samples_of_block(
    int64_t samples, int64_t processors, int64_t most_bytes, const BytesOf& bytes_of) {
  int some = 1;
  while (some < kMostSamples && 2 * ((samples + some - 1) / some) > processors &&
         bytes_of(2 * some) <= most_bytes) {
    some *= 2;
  }
  return some;
}

// Calls f(std::integral_constant<int, S>{}) with the samples S of a block.
template <typename F>
auto switch_samples(int samples, const F& f) {
  switch (samples) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    default:
      return f(std::integral_constant<int, kMostSamples>{});
  }
}

}  // namespace dgm::blocks
