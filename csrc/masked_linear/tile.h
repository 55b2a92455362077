// The register tile that the three masked products run; compiled once per instruction set, so
// without a guard.
//
// kRows x (V vectors) accumulators; each step broadcasts kRows values of the left operand over V
// vectors of the right one. Sums are float32, in blocks of kDepth, in an order that follows
// from the shapes, the mask and the instruction set, never from the threads.

#include "common/vec.h"

namespace dgm::DGM_ISA {

// 12 x 2 accumulators, 2 vectors and 1 broadcast fill 27 of 32 registers; 6 x 2 fill 15 of 16.
constexpr int kRows = DGM_VECTOR_BYTES == 64 ? 12 : 6;
// Tiles [k][m] are filled a vector at a time: what a row has too much, the next one overwrites.
constexpr int kCopied = kRows < kLanes ? kLanes : kRows;
constexpr int kWidth = 2 * kLanes;
constexpr int kDepth = 128;              // a panel of it and its kGroup tiles stay in the L1 cache
constexpr int kPanels = 8;               // panels a task keeps accumulators for
constexpr int kSpan = kPanels * kWidth;  // their columns
constexpr int kSumPitch = kSpan + kLanes;   // of a task's sums: off a power of two, as kRowPitch is
constexpr int kGroup = 4;                   // tiles of rows a task runs over each panel
constexpr int kRowPitch = kDepth + kLanes;  // off a power of two: rows fall in different cache sets

DGM_INLINE int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

template <typename T>
DGM_INLINE void convert(const T* from, int64_t count, float* to) {
  int64_t i = 0;
  // Spelled out because the compiler would make this a `rep movs`, slow for rows this short.
  if constexpr (sizeof(T) == sizeof(float)) {
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  }
  for (; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

// The same where an entry is live, and zero elsewhere.
template <typename T>
DGM_INLINE void convert_live(const T* from, const bool* live, int64_t count, float* to) {
  int64_t i = 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    for (; i + kLanes <= count; i += kLanes) store(to + i, where_live(live + i, load(from + i)));
  }
  for (; i < count; ++i) to[i] = live[i] ? static_cast<float>(from[i]) : 0.0f;
}

// Vectors of the last panel, which is narrow when the columns end inside it.
DGM_INLINE int vectors_of_panel(int64_t panel, int64_t columns) {
  return columns - panel * kWidth <= kLanes ? 1 : 2;
}

// c[m][...] += sum over k < depth of a(m, k) b[k][...], with a(m, k) = a[m * pitch + k * step].
template <int V, int pitch, int step>
DGM_INLINE void multiply_tile(
    const float* a, const float* b, int64_t depth, float* c, int64_t c_pitch) {
  Vec sum[kRows][V] = {};

  for (int64_t k = 0; k < depth; ++k) {
    Vec right[V];
    for (int v = 0; v < V; ++v) right[v] = load(b + k * kWidth + v * kLanes);

#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
      const Vec left = a[m * pitch + k * step] - Vec{};
      for (int v = 0; v < V; ++v) sum[m][v] += left * right[v];
    }
  }

#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < V; ++v) {
      float* place = c + m * c_pitch + v * kLanes;
      store(place, load(place) + sum[m][v]);
    }
  }
}

template <int pitch, int step>
DGM_INLINE void multiply(
    int vectors, const float* a, const float* b, int64_t depth, float* c, int64_t c_pitch) {
  if (vectors == 2) {
    multiply_tile<2, pitch, step>(a, b, depth, c, c_pitch);
  } else {
    multiply_tile<1, pitch, step>(a, b, depth, c, c_pitch);
  }
}

}  // namespace dgm::DGM_ISA
