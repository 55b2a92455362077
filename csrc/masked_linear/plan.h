// The scan of a 0/1 mask that planning starts with; compiled once per instruction set, so without
// a guard.

#include "common/vec.h"

namespace dgm::DGM_ISA {

// Counts the live entries of each of `rows` <= 255 rows, and adds 1 per live entry to
// column_counts. A byte per column is enough for so few rows, and a vector adds 64 of them.
static void count_live_rows(
    const uint8_t* live, int64_t rows, int64_t columns, int32_t* row_counts,
    uint8_t* column_counts) {
  constexpr int64_t kBytes = 255;  // as many as a byte-wide sum can take

  for (int64_t row = 0; row < rows; ++row, live += columns) {
    int32_t count = 0;
    int64_t column = 0;
    for (; column + kBytes * 64 <= columns; column += kBytes * 64) {
      uint8_t sums[64] = {};
      for (int64_t i = 0; i < kBytes; ++i) {
        for (int j = 0; j < 64; ++j) sums[j] += live[column + i * 64 + j];
      }
      for (int j = 0; j < 64; ++j) count += sums[j];
    }
    uint8_t sums[64] = {};
    for (; column + 64 <= columns; column += 64) {
      for (int j = 0; j < 64; ++j) sums[j] += live[column + j];
    }
    for (int j = 0; j < 64; ++j) count += sums[j];
    for (; column < columns; ++column) count += live[column];
    row_counts[row] = count;

    for (int64_t j = 0; j < columns; ++j) column_counts[j] += live[j];
  }
}

// Finds the largest rank of each row's live entries, 0 where there is none. All are looked at, in
// the order in which they lie: a search from the last sorted column down goes all over the row.
static void find_last_live(
    const uint8_t* live, int64_t rows, int64_t columns, const int32_t* ranks, int32_t* last) {
  for (int64_t row = 0; row < rows; ++row, live += columns) {
    int32_t largest = 0;
    for (int64_t j = 0; j < columns; ++j) {
      largest = std::max(largest, ranks[j] & -static_cast<int32_t>(live[j]));
    }
    last[row] = largest;
  }
}

}  // namespace dgm::DGM_ISA
