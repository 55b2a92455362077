// Work on the elements of each sample, with a sum per sample whose bits no thread count changes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "common/parallel.h"

namespace dgm {

// Samples that share a task, so that it holds `length` elements and is worth handing out.
inline int64_t samples_of_task(int64_t elements, int64_t length) {
  return std::max<int64_t>(1, length / std::max<int64_t>(1, elements));
}

// Calls block(i, first, last, begin, end) for block i of samples, [first, last), `rows` of them,
// and each piece [begin, end) of their elements, `length` of them. A sample without elements has
// one empty piece.
//
// `work` is the cost of an element in multiply-adds.
template <typename Block>
void for_each_block(
    int64_t samples, int64_t rows, int64_t elements, int64_t length, int64_t work,
    const Block& block) {
  const int64_t pieces = std::max<int64_t>(1, (elements + length - 1) / length);
  const int64_t blocks = (samples + rows - 1) / rows;
  run_tasks(blocks * pieces, samples * elements * work, [&](int64_t task) {
    const int64_t i = task / pieces, begin = task % pieces * length;
    const int64_t first = i * rows, last = std::min(samples, first + rows);
    block(i, first, last, begin, std::min(elements, begin + length));
  });
}

// Calls block(first, last, begin, end, out) over all pieces of all blocks of samples; it sets
// out[i] to a sum of sample first + i, and sums[sample] becomes the sum of these, in their order.
// Pieces are `length` elements long whatever the number of threads. `sums` and `out` may be null.
template <typename Block>
void sum_each_block(
    int64_t samples, int64_t elements, int64_t length, int64_t work, float* sums,
    const Block& block) {
  const int64_t pieces = (elements + length - 1) / length;
  std::vector<float> partial(sums != nullptr && pieces > 1 ? samples * pieces : 0);

  const int64_t rows = samples_of_task(elements, length);
  for_each_block(
      samples, rows, elements, length, work,
      [&](int64_t, int64_t first, int64_t last, int64_t begin, int64_t end) {
        // Where there are several pieces, a block is one sample.
        float* out = partial.empty() ? sums + first : &partial[first * pieces + begin / length];
        block(first, last, begin, end, sums != nullptr ? out : nullptr);
      });

  for (int64_t s = 0; !partial.empty() && s < samples; ++s) {
    const float* row = &partial[s * pieces];
    sums[s] = static_cast<float>(std::accumulate(row, row + pieces, 0.0));
  }
}

// The same with sum = piece(sample, begin, end) for one sample at a time.
template <typename Piece>
void for_each_sample(
    int64_t samples, int64_t elements, int64_t length, int64_t work, float* sums,
    const Piece& piece) {
  sum_each_block(
      samples, elements, length, work, sums,
      [&](int64_t first, int64_t last, int64_t begin, int64_t end, float* out) {
        for (int64_t s = first; s < last; ++s) {
          const float sum = piece(s, begin, end);
          if (out != nullptr) out[s - first] = sum;
        }
      });
}

}  // namespace dgm
