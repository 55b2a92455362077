// Densities and their gradients, a block of rows at a time; compiled once per instruction set, so
// without a guard.

#include "gaussian_mixture_log_prob/components.h"

namespace dgm::DGM_ISA {

// 8 rows x 2 vectors of components are 16 accumulators, with 4 vectors and 3 temporaries 23 of 32
// registers; 4 x 2 take 15 of 16.
constexpr int kRows = DGM_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int kBlock = 32;  // rows that share a pass over the components

// Log-densities of the components at kRows rows: out[row][component] = constant - distance / 2.
// z is [dim][row]. Differences are taken before they are squared: nothing cancels.
DGM_INLINE void measure_tile(
    Components& components, int64_t group, int64_t dims, const float* z, float* out,
    int64_t pitch) {
  const float *first = components.group(group), *second = components.group(group + 1);
  Vec distance[kRows][2] = {};

  for (int64_t d = 0; d < dims; ++d) {
    const Vec mean[2] = {load(first), load(second)};
    const Vec precision[2] = {load(first + kLanes), load(second + kLanes)};
    first += 2 * kLanes;
    second += 2 * kLanes;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec point = z[d * kRows + r] - Vec{};
      for (int v = 0; v < 2; ++v) {
        const Vec difference = point - mean[v];
        distance[r][v] += difference * precision[v] * difference;
      }
    }
  }

#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 2; ++v) {
      const int64_t place = (group + v) * kLanes;
      const Vec constant = load(components.constants() + place);
      store(out + r * pitch + place, constant - 0.5f * distance[r][v]);
    }
  }
}

// The larger of two, the other where one is NaN.
DGM_INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// Reduces each of kLanes vectors to a number, by halves of their transposes.
template <typename Join>
DGM_INLINE Vec join_lanes(Vec (&rows)[kLanes], const Join& join) {
  transpose(rows);
#pragma GCC unroll 5
  for (int size = kLanes / 2; size > 0; size /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < size; ++i) rows[i] = join(rows[i], rows[i + size]);
  }
  return rows[0];
}

// What a block of rows needs: its points, and a number for each row and component.
class Block {
 public:
  Block(Components& components, int64_t dims)
      : components_(components),
        dims_(dims),
        padded_(components.vectors() * kLanes),
        pitch_(components.groups() * kLanes),
        rows_(kBlock * padded_),
        turned_(kBlock * dims),
        shares_(kBlock * pitch_) {}

  const float* row(int64_t i) { return rows_.data() + i * padded_; }
  float* shares(int64_t i) { return shares_.data() + i * pitch_; }
  int64_t pitch() const { return pitch_; }

  // Reads `count` rows from `first` on and writes their log-densities; leaves in shares(row) the
  // exponentials of the components' exponents less the largest, and in sums[row] their sum.
  template <typename T>
  void measure(const Matrix<T>& z, int64_t first, int64_t count, float* sums, float* log_prob) {
    // Tiles are whole: rows that are not there repeat the last one.
    for (int64_t i = 0; i < tiles(count, kRows) * kRows; ++i) {
      float* row = rows_.data() + i * padded_;
      read_row(z, first + std::min(i, count - 1), dims_, 0.0f, row);
      float* turned = turned_.data() + i / kRows * kRows * dims_ + i % kRows;
      for (int64_t d = 0; d < dims_; ++d) turned[d * kRows] = row[d];
    }

    for (int64_t group = 0; group < components_.groups(); group += Components::kPair) {
      for (int64_t i = 0; i < count; i += kRows) {
        measure_tile(components_, group, dims_, turned_.data() + i * dims_, shares(i), pitch_);
      }
    }
    for (int64_t i = 0; i < count; i += kLanes) {
      exponentiate(i, std::min<int64_t>(kLanes, count - i), sums + i, log_prob + i);
    }
  }

 private:
  void exponentiate(int64_t first, int64_t count, float* sums, float* log_prob) {
    Vec rows[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) {
      const float* exponents = shares(first + i);
      Vec largest = load(exponents);
      for (int64_t k = kLanes; k < pitch_; k += kLanes)
        largest = larger(load(exponents + k), largest);
      rows[i] = largest;
    }

    // With nothing finite to subtract, the sum is 0, infinity or NaN as it should be.
    Vec shift = join_lanes(rows, larger);
    shift = absolute(shift) < __builtin_inff() ? shift : Vec{};
    float shifts[kLanes];
    store(shifts, shift);

    for (int64_t i = 0; i < count; ++i) {
      float* exponents = shares(first + i);
      Vec total{};
      for (int64_t k = 0; k < pitch_; k += kLanes) {
        const Vec share = exp(load(exponents + k) - shifts[i]);
        store(exponents + k, share);
        total += share;
      }
      rows[i] = total;
    }
    for (int64_t i = count; i < kLanes; ++i) rows[i] = Vec{};

    const Vec total = join_lanes(rows, [](Vec a, Vec b) { return a + b; });
    store(sums, total, count);
    store(log_prob, shift + log(total), count);
  }

  Components& components_;
  int64_t dims_, padded_, pitch_;
  Buffer rows_, turned_, shares_;
};

template <typename T>
static void density(const Forward<T>& p) {
  Components components(p, false);
  const int64_t work = 2 * p.rows * p.components * (p.dims + 8);

  run_tasks(tiles(p.rows, kBlock), work, [&](int64_t task) {
    Block block(components, p.dims);
    float sums[kBlock];
    const int64_t first = task * kBlock;
    const int64_t count = std::min<int64_t>(kBlock, p.rows - first);
    block.measure(p.z, first, count, sums, p.log_prob + first);
  });
}

}  // namespace dgm::DGM_ISA
