// Weights in the order in which the sweep uses them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parallel.h"
#include "masked_sweep/problem.h"

namespace dgm::masked_sweep {

// Copies `count` inputs of rows one after another; returns the end.
template <int M>
float* pack_tile(
    const Source& source, const int64_t* rows, int64_t column0, int64_t count, float* to) {
  const float* from[M];
  for (int m = 0; m < M; ++m) from[m] = source.weight + rows[m] * source.row_pitch;
  for (int64_t k = column0; k < column0 + count; ++k, to += M) {
    const int64_t column = source.column(k);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) to[m] = from[m][column];
  }
  return to;
}

template <int M = kRows>
float* pack_rows(
    const Source& source, int64_t row, int64_t rows, int64_t column0, int64_t count, float* to) {
  if constexpr (M > 1) {
    if (rows < M) return pack_rows<M - 1>(source, row, rows, column0, count, to);
  }
  return pack_tile<M>(source, source.rows + row, column0, count, to);
}

// Copies `count` inputs of all rows [row0, row1) to tiles like those of `pack_tiles`, input by
// input: of a weight whose rows lie side by side and its inputs apart, so that a line of the cache
// is used while it is there. Without asking ahead that took twice as long.
inline float* pack_inputs(
    const Source& source, int64_t row0, int64_t row1, int64_t column0, int64_t count, float* to) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(float);
  const int64_t pitch = source.row_pitch, whole = row0 + (row1 - row0) / kRows * kRows;
  const int64_t* const rows = source.rows;
  for (int64_t k = 0; k < count; ++k) {
    const float* const from = source.weight + source.column(column0 + k);
    if (k + kAhead < count) {
      const float* const next = source.weight + source.column(column0 + k + kAhead);
      for (int64_t row = row0; row < row1; row += kLine)
        __builtin_prefetch(next + rows[row] * pitch);
      if (row0 < row1) __builtin_prefetch(next + rows[row1 - 1] * pitch);
    }
    float* at = to + k * kRows;
    for (int64_t row = row0; row < whole; row += kRows, at += kRows * count) {
#pragma GCC unroll 8
      for (int64_t m = 0; m < kRows; ++m) at[m] = from[rows[row + m] * pitch];
    }
    at = to + (whole - row0) * count + k * (row1 - whole);
    for (int64_t row = whole; row < row1; ++row) *at++ = from[rows[row] * pitch];
  }
  return to + (row1 - row0) * count;
}

// Copies the weights of sorted units [row0, row1) and inputs [column0, column1) in tiles of rows,
// input-major, in the order in which a product takes them; returns the end.
inline float* pack_tiles(
    const Source& source, int64_t row0, int64_t row1, int64_t column0, int64_t column1, float* to) {
  for (int64_t k = column0; k < column1; k += kDepth) {
    const int64_t count = std::min(kDepth, column1 - k);
    if (source.row_pitch < source.column_pitch) {
      to = pack_inputs(source, row0, row1, k, count, to);
      continue;
    }
    for (int64_t row = row0; row < row1; row += kRows) {
      to = pack_rows(source, row, std::min(kRows, row1 - row), k, count, to);
    }
  }
  return to;
}

inline void pack_block(const Pack& pack, int64_t b) {
  const Plan& plan = pack.plan;
  const int64_t begin = b * plan.block, end = plan.end_of(b);
  float* to = pack.packed + pack.begins[b];
  for (std::size_t i = 0; i < plan.edges.size(); ++i) {
    const Edge e = plan.edges[i];
    to = pack_tiles(
        pack.sources[i], plan.start(e.to, begin), plan.start(e.to, end), 0,
        plan.before(e.from, begin), to);
  }
  for (int64_t step = begin; step < end; ++step) {
    for (std::size_t i = 0; i < plan.edges.size(); ++i) {
      const Edge e = plan.edges[i];
      to = pack_tiles(
          pack.sources[i], plan.start(e.to, step), plan.start(e.to, step + 1),
          plan.before(e.from, begin), plan.ready(e.from, step), to);
    }
  }
}

inline void pack_all(const Pack& pack) {
  const int64_t blocks = pack.plan.blocks();
  // The last blocks have most, so they go first.
  run_tasks(blocks, pack.begins.back(), [&](int64_t i) { pack_block(pack, blocks - 1 - i); });
}

}  // namespace dgm::masked_sweep
