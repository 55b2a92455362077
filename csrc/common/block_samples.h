// How many samples a block of a GPU's threads draws together.
#pragma once

#include <cstdint>

namespace dgm::blocks {

// A power of two, as small as leaves half of the processors without a block, because all of them
// want more weights than the cache gives, and no larger than `fits`.
template <typename Fits>
int samples_of_block(int64_t samples, int64_t processors, int most, const Fits& fits) {
  int count = 1;
  while (count < most && 2 * ((samples + count - 1) / count) > processors && fits(2 * count)) {
    count *= 2;
  }
  return count;
}

}  // namespace dgm::blocks
