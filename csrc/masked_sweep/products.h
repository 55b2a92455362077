// Products of tiles of packed weights with units of many samples; compiled once per instruction
// set, so without a guard.
//
// Lanes are samples, weights are broadcast. A sum is one chain of multiply-adds along its inputs,
// kept in a register or put down in between: its bits depend neither on how the product is cut nor
// on the samples beside it.

#include "masked_sweep/picks.h"

namespace dgm::DGM_ISA {

namespace sweep {

using masked_sweep::kDepth;
using masked_sweep::kRows;

constexpr bool kWide = DGM_VECTOR_BYTES == 64;
constexpr int64_t kMostVectors = 8;

// 6 x 2 sums, 2 vectors and 1 broadcast fill 15 of 16 registers, 6 x 4 fill 29 of 32. Of a row,
// sums are many, because each waits four cycles for itself.
constexpr int most_vectors(int rows) {
  if (rows <= 2) return kWide || rows == 1 ? 8 : 4;
  return kWide ? 4 : rows == 3 ? 3 : 2;
}

// sums[m][v] += sum over k of weights[k][m] x[k][v]. A function of its own, so that sums stay in
// registers.
template <int M, int V>
static __attribute__((noinline)) void add_products(
    const float* weights, const float* x, int64_t depth, int64_t pitch, float* sums) {
  Vec sum[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[m][v] = load(sums + m * pitch + v * kLanes);
  }

  for (int64_t k = 0; k < depth; ++k, weights += M, x += pitch) {
    read_ahead(weights);
    Vec right[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) right[v] = load(x + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec left = broadcast(weights[m]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[m][v] += left * right[v];
    }
  }

#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(sums + m * pitch + v * kLanes, sum[m][v]);
  }
}

using AddProducts = decltype(&add_products<1, 1>);

template <int M, int... V>
static AddProducts of_vectors(int64_t vectors, std::integer_sequence<int, V...>) {
  static constexpr AddProducts table[] = {add_products<M, V + 1>...};
  return table[vectors - 1];
}

template <int M>
static AddProducts of_rows(int64_t vectors) {
  return of_vectors<M>(vectors, std::make_integer_sequence<int, most_vectors(M)>{});
}

static AddProducts add_products_of(int64_t rows, int64_t vectors) {
  switch (rows) {
    case 1:
      return of_rows<1>(vectors);
    case 2:
      return of_rows<2>(vectors);
    case 3:
      return of_rows<3>(vectors);
    case 4:
      return of_rows<4>(vectors);
    case 5:
      return of_rows<5>(vectors);
    default:
      return of_rows<6>(vectors);
  }
}

// One tile of rows with all samples.
DGM_INLINE void multiply_tile(
    const float* weights, int64_t rows, const float* x, int64_t depth, int64_t vectors,
    float* sums) {
  const int64_t pitch = vectors * kLanes, most = most_vectors(static_cast<int>(rows));
  const int64_t pieces = (vectors + most - 1) / most;
  for (int64_t i = 0, v = 0; i < pieces; ++i) {
    const int64_t count = vectors * (i + 1) / pieces - v;
    add_products_of(rows, count)(weights, x + v * kLanes, depth, pitch, sums + v * kLanes);
    v += count;
  }
}

// Adds the products of `rows` units' packed weights with `depth` units of level x; returns the end
// of the weights.
static const float* multiply(
    const float* weights, int64_t rows, const float* x, int64_t depth, int64_t vectors,
    float* sums) {
  const int64_t pitch = vectors * kLanes;
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t count = std::min(kDepth, depth - k);
    for (int64_t row = 0; row < rows; row += kRows) {
      const int64_t tile = std::min(kRows, rows - row);
      multiply_tile(weights, tile, x + k * pitch, count, vectors, sums + row * pitch);
      weights += tile * count;
    }
  }
  return weights;
}

}  // namespace sweep

}  // namespace dgm::DGM_ISA
