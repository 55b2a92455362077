// The three masked products; compiled once per instruction set, so without a guard.

#include "masked_linear/pack.h"

namespace dgm::DGM_ISA {

using dgm::masked_linear::Backward;
using dgm::masked_linear::Forward;

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
      for (int m = 0; m < kLanes; ++m) square[m] = load(c + (m0 + m) * kSumPitch + j0);
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

// Sets the columns of a task's sums that its samples use to zero.
DGM_INLINE void clear_sums(float* c, int64_t samples) {
  const int64_t columns = tiles(samples, kWidth) * kWidth;
  for (int row = 0; row < kGroup * kRows; ++row) std::fill_n(c + row * kSumPitch, columns, 0.0f);
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

    alignas(64) float a[kGroupRows * kRowPitch], c[kGroupRows * kSumPitch];
    clear_sums(c, samples);
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
              vectors, a + row * kRowPitch, b, depth, c + row * kSumPitch + j * kWidth, kSumPitch);
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

    alignas(64) float a[kColumns * kDepth + kCopied], c[kColumns * kSumPitch];
    clear_sums(c, samples);
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
              vectors, a + column * kDepth, b, depth, c + column * kSumPitch + j * kWidth,
              kSumPitch);
        }
      }
    }

    write_transposed<T>(
        c, columns, s.column_order, group0, nullptr, sample0, samples, p.grad_x, s.in);
  });
}

// Writes one row of grad_weight: live entries from c, exact zeros elsewhere.
template <typename T>
DGM_INLINE void write_grad_row(const Staircase& s, int64_t sorted, const float* c, T* grad_weight) {
  const int64_t row = s.row(sorted), bound = s.row_bound[sorted];
  T* line = grad_weight + row * s.in;

  if (s.column_order) {
    std::fill(line, line + s.in, static_cast<T>(0.0f));
    for (int64_t k = 0; k < bound; ++k) {
      const int64_t column = s.column(k);
      if (s.live(row, column)) line[column] = static_cast<T>(c[k]);
    }
    return;
  }

  int64_t k = 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    for (; k + kLanes <= bound; k += kLanes) {
      const Vec sums = load(c + k);
      store(line + k, s.mask ? where_live(s.mask + row * s.in + k, sums) : sums);
    }
  }
  for (; k < bound; ++k) line[k] = static_cast<T>(s.live(row, k) ? c[k] : 0.0f);
  std::fill(line + bound, line + s.in, static_cast<T>(0.0f));
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
    Buffer sums(kGroupRows * width), left(kGroupRows * kDepth + kCopied);
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
