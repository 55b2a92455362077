// Operands as the tile wants them; compiled once per instruction set, so without a guard.
//
// The right operand is packed once per call into panels kWidth wide. The left one is copied into a
// small scratch just before use: there masks, orders and dtypes are dealt with, at 1/samples of
// the product's cost.

#include "masked_linear/tile.h"

namespace dgm::DGM_ISA {

using dgm::masked_linear::Matrix;
using dgm::masked_linear::Staircase;

// Brings part `part` of `parts` of a block of the weight into the L2 cache. The blocks are short
// pieces of far-apart rows, which the hardware's prefetcher does not follow.
template <typename T>
DGM_INLINE void prefetch_rows(
    const Staircase& s, Matrix<const T> weight, int64_t row0, int64_t rows, int64_t column0,
    int64_t columns, int64_t part, int64_t parts) {
  if (s.column_order || weight.column_stride != 1) return;

  const int64_t end = std::min(rows, tiles(rows, parts) * (part + 1));
  for (int64_t row = tiles(rows, parts) * part; row < end; ++row) {
    const T* line = &weight.at(s.row(row0 + row), column0);
    for (int64_t i = 0; i < columns; i += 64 / sizeof(T)) __builtin_prefetch(line + i, 0, 2);
  }
}

// Packs matrix^T, its columns in the given order: panel p holds rows [p kWidth, (p+1) kWidth) of
// the matrix as [column][row], zeros beyond the last row.
template <typename T>
static void pack_transposed(
    Matrix<const T> matrix, int64_t rows, int64_t columns, const int32_t* order, float* packed) {
  const int64_t panels = tiles(rows, kWidth), chunks = tiles(columns, kDepth);

  run_tasks(panels * chunks, rows * columns, [&](int64_t task) {
    const int64_t row0 = task / chunks * kWidth, column0 = task % chunks * kDepth;
    const int64_t count = std::min<int64_t>(kDepth, columns - column0);
    float* panel = packed + row0 * columns + column0 * kWidth;
    float lines[kLanes][kRowPitch];

    for (int half = 0; half < 2; ++half) {
      for (int j = 0; j < kLanes; ++j) {
        const int64_t row = row0 + half * kLanes + j;
        float* line = lines[j];
        if (row >= rows) {
          std::fill_n(line, count, 0.0f);
        } else if (order == nullptr && matrix.column_stride == 1) {
          convert(&matrix.at(row, column0), count, line);
        } else {
          for (int64_t k = 0; k < count; ++k) {
            line[k] = matrix.at(row, order ? order[column0 + k] : column0 + k);
          }
        }
      }

      float* place = panel + half * kLanes;
      for (int64_t k = 0; k < count; k += kLanes) {
        Vec square[kLanes];
        for (int j = 0; j < kLanes; ++j) square[j] = load(&lines[j][k]);
        transpose(square);
        const int64_t whole = std::min<int64_t>(kLanes, count - k);
        for (int64_t j = 0; j < whole; ++j) store(place + (k + j) * kWidth, square[j]);
      }
    }
  });
}

// Packs the matrix, its columns in the given order: panel p holds columns [p kWidth, ...) as
// [row][column], zeros beyond the last column.
template <typename T>
static void pack_columns(
    Matrix<const T> matrix, int64_t rows, int64_t columns, const int32_t* order, float* packed) {
  run_tasks(tiles(columns, kWidth), rows * columns, [&](int64_t panel) {
    const int64_t column0 = panel * kWidth;
    const int64_t count = std::min<int64_t>(kWidth, columns - column0);
    float* line = packed + column0 * rows;

    for (int64_t row = 0; row < rows; ++row, line += kWidth) {
      if (order == nullptr && matrix.column_stride == 1) {
        convert(&matrix.at(row, column0), count, line);
      } else {
        for (int64_t j = 0; j < count; ++j) {
          line[j] = matrix.at(row, order ? order[column0 + j] : column0 + j);
        }
      }
      std::fill(line + count, line + kWidth, 0.0f);
    }
  });
}

// Copies sorted rows [row0, row0 + kRows) of the weight, sorted columns [column0, column0 + count),
// zeros where the mask is: a[m][k].
template <typename T>
DGM_INLINE void copy_rows(
    const Staircase& s, Matrix<const T> weight, int64_t row0, int64_t column0, int64_t count,
    float* a) {
  for (int m = 0; m < kRows; ++m, a += kRowPitch) {
    const int64_t sorted = row0 + m;
    const int64_t bound = sorted < s.out ? s.row_bound[sorted] : 0;
    const int64_t live = std::clamp<int64_t>(bound - column0, 0, count);
    const int64_t row = live > 0 ? s.row(sorted) : 0;

    if (!s.column_order && weight.column_stride == 1) {
      if (live > 0 && s.mask) {
        convert_live(&weight.at(row, column0), s.mask + row * s.in + column0, live, a);
      } else if (live > 0) {
        convert(&weight.at(row, column0), live, a);
      }
    } else {
      for (int64_t k = 0; k < live; ++k) {
        const int64_t column = s.column(column0 + k);
        a[k] = s.live(row, column) ? static_cast<float>(weight.at(row, column)) : 0.0f;
      }
    }
    std::fill(a + live, a + count, 0.0f);
  }
}

// Copies sorted columns [column0, column0 + kRows) of the weight, sorted rows [row0, row0 + count),
// zeros where the mask is: a[k][m], which needs room for kCopied more.
template <typename T>
DGM_INLINE void copy_columns(
    const Staircase& s, Matrix<const T> weight, int64_t column0, int64_t row0, int64_t count,
    float* a) {
  const bool whole = column0 + kCopied <= s.in && !s.column_order && weight.column_stride == 1;

  for (int64_t k = 0; k < count; ++k, a += kRows) {
    const int64_t row = s.row(row0 + k);
    const int64_t bound = s.row_bound[row0 + k];
    if (whole && column0 + kRows <= bound) {
      if (s.mask) {
        convert_live(&weight.at(row, column0), s.mask + row * s.in + column0, kCopied, a);
      } else {
        convert(&weight.at(row, column0), kCopied, a);
      }
      continue;
    }

    for (int m = 0; m < kRows; ++m) {
      const bool inside = column0 + m < bound;
      const int64_t column = inside ? s.column(column0 + m) : 0;
      a[m] = inside && s.live(row, column) ? static_cast<float>(weight.at(row, column)) : 0.0f;
    }
  }
}

// Copies sorted columns [column0, column0 + kRows) of grad_y for `count` samples: a[k][m],
// which needs room for kCopied more.
template <typename T>
DGM_INLINE void copy_samples(
    const Staircase& s, Matrix<const T> grad_y, int64_t column0, int64_t sample0, int64_t count,
    float* a) {
  const int64_t columns = std::min<int64_t>(kRows, s.out - column0);
  const bool plain = column0 + kCopied <= s.out && !s.row_order && grad_y.column_stride == 1;

  for (int64_t k = 0; k < count; ++k, a += kRows) {
    if (plain) {
      convert(&grad_y.at(sample0 + k, column0), kCopied, a);
      continue;
    }
    for (int64_t m = 0; m < columns; ++m) {
      a[m] = static_cast<float>(grad_y.at(sample0 + k, s.row(column0 + m)));
    }
    std::fill(a + columns, a + kRows, 0.0f);
  }
}

}  // namespace dgm::DGM_ISA
