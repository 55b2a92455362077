// Products of a few rows with a matrix, of samplers that draw one value after another; compiled
// once per instruction set, so without a guard.
//
// Lanes are outputs, rows are broadcast. A sum is one chain of multiply-adds along the matrix, so
// its bits depend neither on how rows and columns are cut into tiles nor on where it was put down
// in between.

#include "common/math.h"
#include "common/tanh_gate.h"

namespace dgm::DGM_ISA {

namespace sampling {

// Some columns of a matrix, whole vectors.
struct Columns {
  int64_t begin, count;

  // The share of one of several threads.
  static Columns of(int64_t width, int64_t rank, int64_t threads) {
    const int64_t vectors = width / kLanes, begin = vectors * rank / threads;
    return {begin * kLanes, (vectors * (rank + 1) / threads - begin) * kLanes};
  }
};

DGM_INLINE void copy(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(from + i));
}

DGM_INLINE void add(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(to + i) + load(from + i));
}

DGM_INLINE void relu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(x + i, at_least(load(x + i), Vec{}));
}

// Of a single row, sums are many, because each waits four cycles for itself. 8 x 3 sums, 3 vectors
// and 1 broadcast fill 28 of 32 registers, 4 x 3 fill 16 of 16.
constexpr bool kMany = DGM_VECTOR_BYTES == 64;
constexpr int64_t kMostRows = kMany ? 8 : 4;
constexpr int most_vectors(int rows) {
  return rows == 1 ? (kMany ? 16 : 8) : rows == 2 ? (kMany ? 8 : 4) : rows == 4 && kMany ? 5 : 3;
}

// sums[s][v] += left[s][k] right[k][v]. A function of its own, so that sums stay in registers.
template <int S, int V>
static __attribute__((noinline)) void add_products(
    const float* const* left, const float* right, int64_t depth, int64_t pitch, float* const* sums,
    int64_t column) {
  const float* row[S];
  Vec sum[S][V];
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
    row[s] = left[s];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[s][v] = load(sums[s] + column + v * kLanes);
  }

  right += column;
  for (int64_t k = 0; k < depth; ++k, right += pitch) {
    Vec b[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) b[v] = load(right + v * kLanes);
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      const Vec a = broadcast(row[s][k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[s][v] += a * b[v];
    }
  }

#pragma GCC unroll 8
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(sums[s] + column + v * kLanes, sum[s][v]);
  }
}

using AddProducts = decltype(&add_products<1, 1>);

template <int S, int... V>
static AddProducts of_vectors(int64_t vectors, std::integer_sequence<int, V...>) {
  static constexpr AddProducts table[] = {add_products<S, V + 1>...};
  return table[vectors - 1];
}

template <int S>
static AddProducts of_rows(int64_t vectors) {
  return of_vectors<S>(vectors, std::make_integer_sequence<int, most_vectors(S)>{});
}

static AddProducts add_products_of(int rows, int64_t vectors) {
  if constexpr (kMostRows == 8) {
    if (rows == 8) return of_rows<8>(vectors);
  }
  return rows == 4 ? of_rows<4>(vectors) : rows == 2 ? of_rows<2>(vectors) : of_rows<1>(vectors);
}

// Rows to multiply, and what their products are added to.
struct Rows {
  static constexpr int64_t kMost = 8;
  int64_t count = 0;
  const float* left[kMost];
  float* sums[kMost];

  void add(const float* from, float* to) {
    left[count] = from;
    sums[count++] = to;
  }
};

// Adds rows times some columns of a matrix (depth, width).
static void multiply(
    const Rows& rows, const float* right, int64_t depth, int64_t width, Columns columns) {
  const int64_t vectors = columns.count / kLanes;
  for (int64_t r = 0; r < rows.count;) {
    const int64_t left = std::min(rows.count - r, kMostRows);
    const int S = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const int64_t most = most_vectors(S), blocks = (vectors + most - 1) / most;
    for (int64_t i = 0, v = 0; i < blocks; ++i) {
      const int64_t count = vectors * (i + 1) / blocks - v, column = columns.begin + v * kLanes;
      add_products_of(S, count)(rows.left + r, right, depth, width, rows.sums + r, column);
      v += count;
    }
    r += S;
  }
}

[[maybe_unused]] static void multiply(
    const Rows& rows, const float* right, int64_t depth, int64_t width) {
  multiply(rows, right, depth, width, {0, width});
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
