// The three masked products; compiled once per instruction set, so without a guard.
//
// All three run one register tile: kRows x (V vectors) accumulators, each step broadcasting kRows
// values of the left operand over V vectors of the right one. The left operand is copied into a
// small scratch just before use; that copy is where masks, orders and dtypes are dealt with, and
// costs 1/samples of the product. The right operand is packed once per call into panels kWidth
// wide. Sums are float32, in blocks of kDepth, in an order that depends on the shapes alone.

#include "common/vec.h"

namespace dgm::DGM_ISA {

using dgm::masked_linear::Backward;
using dgm::masked_linear::Forward;
using dgm::masked_linear::Matrix;
using dgm::masked_linear::Staircase;

// 12 x 2 accumulators, 2 vectors and 1 broadcast fill 27 of 32 registers; 6 x 2 fill 15 of 16.
constexpr int kRows = DGM_VECTOR_BYTES == 64 ? 12 : 6;
constexpr int kWidth = 2 * kLanes;
constexpr int kDepth = 128;                 // a panel of it and its kGroup tiles stay in the L1 cache
constexpr int kPanels = 4;                  // panels a task keeps accumulators for
constexpr int kSpan = kPanels * kWidth;     // their columns
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

    if (!s.column_order && !s.mask && weight.column_stride == 1) {
      if (live > 0) convert(&weight.at(row, column0), live, a);
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
// zeros where the mask is: a[k][m].
template <typename T>
DGM_INLINE void copy_columns(
    const Staircase& s, Matrix<const T> weight, int64_t column0, int64_t row0, int64_t count,
    float* a) {
  const bool whole = column0 + kRows <= s.in && !s.column_order && !s.mask;

  for (int64_t k = 0; k < count; ++k, a += kRows) {
    const int64_t row = s.row(row0 + k);
    const int64_t bound = s.row_bound[row0 + k];
    if (whole && column0 + kRows <= bound && weight.column_stride == 1) {
      convert(&weight.at(row, column0), kRows, a);
      continue;
    }

    for (int m = 0; m < kRows; ++m) {
      const bool inside = column0 + m < bound;
      const int64_t column = inside ? s.column(column0 + m) : 0;
      a[m] = inside && s.live(row, column) ? static_cast<float>(weight.at(row, column)) : 0.0f;
    }
  }
}

// Writes c[m][j], a group of tiles whose rows are sorted places and whose columns are samples, to
// out[sample][place], adding a bias per place.
template <typename T>
DGM_INLINE void write_transposed(
    const float* c, int64_t places, const int32_t* order, int64_t place0, const T* bias,
    int64_t sample0, int64_t samples, T* out, int64_t out_pitch) {
  static_assert(kGroup * kRows % kLanes == 0, "a group is whole squares");

  for (int64_t m0 = 0; m0 < places; m0 += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, places - m0);
    float shift[kLanes] = {};
    for (int64_t m = 0; bias && m < count; ++m) {
      shift[m] = static_cast<float>(bias[order ? order[place0 + m0 + m] : place0 + m0 + m]);
    }

    const Vec shifts = load(shift);
    const bool plain = sizeof(T) == sizeof(float) && !order && count == kLanes;

    for (int64_t j0 = 0; j0 < samples; j0 += kLanes) {
      Vec square[kLanes];
      for (int m = 0; m < kLanes; ++m) square[m] = load(c + (m0 + m) * kSpan + j0);
      transpose(square);

      T* line = out + (sample0 + j0) * out_pitch;
      const int64_t lines = std::min<int64_t>(kLanes, samples - j0);
      if (plain && lines == kLanes) {
        // Constant bounds keep the square in registers.
        float* place = reinterpret_cast<float*>(line) + place0 + m0;
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) store(place + j * out_pitch, square[j] + shifts);
        continue;
      }

      float values[kLanes][kLanes];
      for (int j = 0; j < kLanes; ++j) store(values[j], square[j] + shifts);
      for (int64_t j = 0; j < lines; ++j, line += out_pitch) {
        for (int64_t m = 0; m < count; ++m) {
          line[order ? order[place0 + m0 + m] : place0 + m0 + m] = static_cast<T>(values[j][m]);
        }
      }
    }
  }
}

// y = x W^T + bias. A task owns kGroup tiles of the weight's rows for kSpan samples.
template <typename T>
static void forward_product(const Forward<T>& p) {
  const Staircase& s = p.staircase;
  Buffer packed(tiles(p.samples, kWidth) * kWidth * s.in);
  pack_transposed(p.x, p.samples, s.in, s.column_order, packed.data());

  constexpr int kGroupRows = kGroup * kRows;
  const int64_t groups = tiles(s.out, kGroupRows), spans = tiles(p.samples, kSpan);
  run_tasks(groups * spans, p.samples * s.in * s.out / 2, [&](int64_t task) {
    // The last rows reach furthest, so they go first.
    const int64_t group0 = (groups - 1 - task / spans) * kGroupRows;
    const int64_t sample0 = task % spans * kSpan;
    const int64_t samples = std::min<int64_t>(kSpan, p.samples - sample0);
    const int64_t rows = std::min<int64_t>(kGroupRows, s.out - group0);
    const int64_t bound = s.row_bound[group0 + rows - 1];

    alignas(64) float a[kGroupRows * kRowPitch], c[kGroupRows * kSpan] = {};
    for (int64_t k0 = 0; k0 < bound; k0 += kDepth) {
      const int64_t depth = std::min<int64_t>(kDepth, bound - k0);
      int64_t first = rows;  // the first row whose tile reaches this block
      for (int64_t row = tiles(rows, kRows) * kRows; (row -= kRows) >= 0;) {
        if (s.row_bound[std::min(group0 + row + kRows, s.out) - 1] <= k0) break;
        copy_rows(s, p.weight, group0 + row, k0, depth, a + row * kRowPitch);
        first = row;
      }

      const int64_t next = std::clamp<int64_t>(bound - k0 - kDepth, 0, kDepth);
      const int64_t panels = tiles(samples, kWidth);
      for (int64_t j = 0; j < panels; ++j) {
        prefetch_rows(s, p.weight, group0, rows, k0 + kDepth, next, j, panels);

        const float* b = packed.data() + (sample0 + j * kWidth) * s.in + k0 * kWidth;
        const int vectors = vectors_of_panel(j, samples);
        for (int64_t row = first; row < rows; row += kRows) {
          multiply<kRowPitch, 1>(
              vectors, a + row * kRowPitch, b, depth, c + row * kSpan + j * kWidth, kSpan);
        }
      }
    }

    write_transposed(c, rows, s.row_order, group0, p.bias, sample0, samples, p.y, s.out);
  });
}

// grad_x = grad_y W. A task owns kGroup tiles of the weight's columns for kSpan samples.
template <typename T>
static void grad_x_product(const Backward<T>& p) {
  const Staircase& s = p.staircase;
  Buffer packed(tiles(p.samples, kWidth) * kWidth * s.out);
  pack_transposed(p.grad_y, p.samples, s.out, s.row_order, packed.data());

  constexpr int kColumns = kGroup * kRows;
  const int64_t groups = tiles(s.in, kColumns), spans = tiles(p.samples, kSpan);
  run_tasks(groups * spans, p.samples * s.in * s.out / 2, [&](int64_t task) {
    const int64_t group0 = task / spans * kColumns, sample0 = task % spans * kSpan;
    const int64_t samples = std::min<int64_t>(kSpan, p.samples - sample0);
    const int64_t columns = std::min<int64_t>(kColumns, s.in - group0);

    alignas(64) float a[kColumns * kDepth], c[kColumns * kSpan] = {};
    for (int64_t k0 = s.column_start[group0]; k0 < s.out; k0 += kDepth) {
      const int64_t depth = std::min<int64_t>(kDepth, s.out - k0);
      int64_t end = 0;  // past the last tile that this block reaches
      while (end < columns && s.column_start[group0 + end] < k0 + depth) {
        copy_columns(s, p.weight, group0 + end, k0, depth, a + end * kDepth);
        end += kRows;
      }

      const int64_t next = std::clamp<int64_t>(s.out - k0 - kDepth, 0, kDepth);
      const int64_t panels = tiles(samples, kWidth);
      for (int64_t j = 0; j < panels; ++j) {
        prefetch_rows(s, p.weight, k0 + kDepth, next, group0, columns, j, panels);

        const float* b = packed.data() + (sample0 + j * kWidth) * s.out + k0 * kWidth;
        const int vectors = vectors_of_panel(j, samples);
        for (int64_t column = 0; column < end; column += kRows) {
          multiply<1, kRows>(
              vectors, a + column * kDepth, b, depth, c + column * kSpan + j * kWidth, kSpan);
        }
      }
    }

    write_transposed<T>(
        c, columns, s.column_order, group0, nullptr, sample0, samples, p.grad_x, s.in);
  });
}

// Copies sorted columns [column0, column0 + kRows) of grad_y for `count` samples: a[k][m].
template <typename T>
DGM_INLINE void copy_samples(
    const Staircase& s, Matrix<const T> grad_y, int64_t column0, int64_t sample0, int64_t count,
    float* a) {
  const int64_t columns = std::min<int64_t>(kRows, s.out - column0);
  const bool plain = columns == kRows && !s.row_order && grad_y.column_stride == 1;

  for (int64_t k = 0; k < count; ++k, a += kRows) {
    if (plain) {
      convert(&grad_y.at(sample0 + k, column0), kRows, a);
      continue;
    }
    for (int64_t m = 0; m < columns; ++m) {
      a[m] = static_cast<float>(grad_y.at(sample0 + k, s.row(column0 + m)));
    }
    std::fill(a + columns, a + kRows, 0.0f);
  }
}

// Writes one row of grad_weight: live entries from c, exact zeros elsewhere.
template <typename T>
DGM_INLINE void write_grad_row(const Staircase& s, int64_t sorted, const float* c, T* grad_weight) {
  const int64_t row = s.row(sorted), bound = s.row_bound[sorted];
  T* line = grad_weight + row * s.in;

  if (!s.column_order && !s.mask) {
    for (int64_t k = 0; k < bound; ++k) line[k] = static_cast<T>(c[k]);
    std::fill(line + bound, line + s.in, static_cast<T>(0.0f));
    return;
  }

  std::fill(line, line + s.in, static_cast<T>(0.0f));
  for (int64_t k = 0; k < bound; ++k) {
    const int64_t column = s.column(k);
    if (s.live(row, column)) line[column] = static_cast<T>(c[k]);
  }
}

// grad_W = grad_y^T x where the mask is live. A task owns kGroup tiles of the weight's rows.
template <typename T>
static void grad_weight_product(const Backward<T>& p) {
  const Staircase& s = p.staircase;
  Buffer packed(tiles(s.in, kWidth) * kWidth * p.samples);
  pack_columns(p.x, p.samples, s.in, s.column_order, packed.data());

  constexpr int kGroupRows = kGroup * kRows;
  const int64_t groups = tiles(s.out, kGroupRows);
  run_tasks(groups, p.samples * s.in * s.out / 2, [&](int64_t task) {
    const int64_t group0 = (groups - 1 - task) * kGroupRows;
    const int64_t rows = std::min<int64_t>(kGroupRows, s.out - group0);
    const int64_t width = tiles(s.row_bound[group0 + rows - 1], kWidth) * kWidth;
    Buffer sums(kGroupRows * width), left(kGroupRows * kDepth);
    float *c = sums.data(), *a = left.data();
    std::fill_n(c, kGroupRows * width, 0.0f);

    for (int64_t k0 = 0; k0 < p.samples; k0 += kDepth) {
      const int64_t depth = std::min<int64_t>(kDepth, p.samples - k0);
      for (int64_t row = 0; row < rows; row += kRows) {
        copy_samples(s, p.grad_y, group0 + row, k0, depth, a + row * kDepth);
      }

      for (int64_t column = 0; column < width; column += kWidth) {
        const float* b = packed.data() + column * p.samples + k0 * kWidth;
        for (int64_t row = 0; row < rows; row += kRows) {
          const int64_t reach = s.row_bound[std::min(group0 + row + kRows, s.out) - 1];
          if (column >= reach) continue;
          multiply<1, kRows>(2, a + row * kDepth, b, depth, c + row * width + column, width);
        }
      }
    }

    for (int64_t m = 0; m < rows; ++m) write_grad_row(s, group0 + m, c + m * width, p.grad_weight);
  });
}

// grad_b = column sums of grad_y, in blocks so that rounding grows with the blocks, not the rows.
template <typename T>
static void grad_bias_sum(const Backward<T>& p) {
  constexpr int64_t kBlock = 64;

  run_tasks(tiles(p.staircase.out, kDepth), p.samples * p.staircase.out, [&](int64_t task) {
    const int64_t column0 = task * kDepth;
    const int64_t count = std::min<int64_t>(kDepth, p.staircase.out - column0);
    float total[kDepth] = {};

    for (int64_t row0 = 0; row0 < p.samples; row0 += kBlock) {
      float partial[kDepth] = {};
      const int64_t end = std::min(row0 + kBlock, p.samples);
      for (int64_t row = row0; row < end; ++row) {
        if (p.grad_y.column_stride == 1) {
          const T* line = &p.grad_y.at(row, column0);
          for (int64_t j = 0; j < count; ++j) partial[j] += static_cast<float>(line[j]);
        } else {
          for (int64_t j = 0; j < count; ++j) partial[j] += p.grad_y.at(row, column0 + j);
        }
      }
      for (int64_t j = 0; j < count; ++j) total[j] += partial[j];
    }
    for (int64_t j = 0; j < count; ++j) p.grad_bias[column0 + j] = static_cast<T>(total[j]);
  });
}

template <typename T>
static void backward_products(const Backward<T>& p) {
  if (p.grad_x) grad_x_product(p);
  if (p.grad_weight) grad_weight_product(p);
  if (p.grad_bias) grad_bias_sum(p);
}

}  // namespace dgm::DGM_ISA
