// Work on the elements of each sample, with a sum per sample whose bits no thread count changes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "common/parallel.h"

namespace dgm {

// Calls sum += piece(sample, begin, end) over all pieces [begin, end) of all samples' elements, and
// writes each sample's sum to sums[sample]; `sums` may be null. Pieces are `length` elements long
// whatever the number of threads, and added in their order. A sample without elements has one
// empty piece, so that its sum is zero.
//
// `work` is the cost of an element in multiply-adds.
template <typename Piece>
void for_each_sample(
    int64_t samples, int64_t elements, int64_t length, int64_t work, float* sums,
    const Piece& piece) {
  const int64_t pieces = std::max<int64_t>(1, (elements + length - 1) / length);
  // Short samples share a task, so that a task is always worth handing out.
  const int64_t rows = std::max<int64_t>(1, length / std::max<int64_t>(1, elements));
  const int64_t blocks = (samples + rows - 1) / rows;
  std::vector<float> partial(sums != nullptr && pieces > 1 ? samples * pieces : 0);

  run_tasks(blocks * pieces, samples * elements * work, [&](int64_t task) {
    const int64_t block = task / pieces, i = task % pieces;
    const int64_t begin = i * length, end = std::min(elements, begin + length);
    for (int64_t s = block * rows; s < std::min(samples, (block + 1) * rows); ++s) {
      const float sum = piece(s, begin, end);
      if (sums != nullptr) (pieces > 1 ? partial[s * pieces + i] : sums[s]) = sum;
    }
  });

  for (int64_t s = 0; !partial.empty() && s < samples; ++s) {
    const float* row = &partial[s * pieces];
    sums[s] = static_cast<float>(std::accumulate(row, row + pieces, 0.0));
  }
}

}  // namespace dgm
