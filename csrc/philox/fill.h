// Fill a row with uniforms or normals; compiled once per instruction set, so without a guard.

#include "common/normals.h"

namespace dgm::DGM_ISA {

// Fills elements [begin, end) of a sample's row; `begin` is a multiple of 4.
template <typename T, bool normal>
DGM_INLINE void fill_range(
    const PhiloxKey& key, uint64_t sample, int64_t begin, int64_t end, T* row) {
  alignas(64) float line[kLine];

  for (int64_t element = begin; element < end; element += kLine) {
    draw_line<normal>(key, sample, element, line);

    const int64_t count = std::min<int64_t>(kLine, end - element);
    for (int64_t i = 0; i < count; ++i) row[element + i] = static_cast<T>(line[i]);
  }
}

constexpr int64_t kChunk = 64 * kLine;  // elements of one task

template <typename T>
static void fill(
    int64_t seed, int64_t stream, int64_t samples, int64_t elements, int64_t sample_offset,
    bool normal, T* out) {
  const PhiloxKey key(seed, stream);
  const int64_t chunks = (elements + kChunk - 1) / kChunk;

  // Short rows share a task, so that a task is always worth handing out.
  const int64_t rows = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, elements));
  const int64_t blocks = (samples + rows - 1) / rows;
  run_tasks(blocks * chunks, samples * elements * 8, [&](int64_t task) {
    const int64_t begin = task % chunks * kChunk, end = std::min(elements, begin + kChunk);
    const int64_t last = std::min(samples, (task / chunks + 1) * rows);
    for (int64_t s = task / chunks * rows; s < last; ++s) {
      const auto sample = static_cast<uint64_t>(sample_offset + s);
      if (normal) {
        fill_range<T, true>(key, sample, begin, end, out + s * elements);
      } else {
        fill_range<T, false>(key, sample, begin, end, out + s * elements);
      }
    }
  });
}

}  // namespace dgm::DGM_ISA
