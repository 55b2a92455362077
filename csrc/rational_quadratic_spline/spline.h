// Splines of blocks of elements; compiled once per instruction set, so without a guard.

#include "rational_quadratic_spline/group.h"

// After group.h.
#include "rational_quadratic_spline/tile.h"

namespace dgm::DGM_ISA {

constexpr int64_t kBlock = 2048;  // elements of a task

// An element's place in (samples, outer, inner).
struct Position {
  int64_t sample, outer, inner;
};

// Elements [first.inner, end) of `rows` rows (sample, outer) from `first` on: part of one row, or
// some whole ones, so that a dense tensor has a block in one piece.
struct Block {
  Position first;
  int64_t outer, rows, end;

  int64_t length() const { return end - first.inner; }
  int64_t size() const { return rows * length(); }

  void advance(Position& at, int64_t count) const {
    at.inner += count;
    while (at.inner >= end) {
      at.inner -= length();
      if (++at.outer == outer) at.outer = 0, ++at.sample;
    }
  }
};

template <typename Run>
static void for_each_block(
    int64_t rows, int64_t outer, int64_t inner, int64_t work, const Run& run) {
  const int64_t pieces = (inner + kBlock - 1) / kBlock;
  const int64_t together = std::max<int64_t>(1, kBlock / std::max<int64_t>(1, inner));
  const int64_t blocks = (rows + together - 1) / together;
  run_tasks(blocks * pieces, rows * inner * work, [&](int64_t task) {
    const int64_t row = task / pieces * together, piece = task % pieces, begin = piece * kBlock;
    const Position first{row / outer, row % outer, begin};
    const int64_t end = std::min(inner, begin + kBlock);
    run(Block{first, outer, std::min(together, rows - row), end}, row, piece);
  });
}

// Brings a block's elements together as floats; zeros where there are none.
template <typename T>
DGM_INLINE void gather(const spline::Elements<const T>& from, const Block& block, float* to) {
  const int64_t length = block.length();
  Position at = block.first;
  for (int64_t i = 0; i < block.rows; ++i, to += length, block.advance(at, length)) {
    if (from.data == nullptr) {
      std::fill(to, to + length, 0.0f);
      continue;
    }
    const T* row = from.row(at.sample, at.outer) + at.inner * from.inner;
    if (from.inner == 1) {
      for (int64_t j = 0; j < length; j += kLanes) {
        store(to + j, load(row + j, length - j), length - j);
      }
    } else {
      for (int64_t j = 0; j < length; ++j) to[j] = static_cast<float>(row[j * from.inner]);
    }
  }
}

// Finds the columns of up to kLanes elements from a position on.
template <typename T>
DGM_INLINE Lanes<T> find_lanes(
    const spline::Columns<T>& columns, const Block& block, Position at, int64_t count) {
  Lanes<T> lanes;
  lanes.step = columns.inner;
  lanes.count = std::min<int64_t>(kLanes, count);
  lanes.together = at.inner + lanes.count <= block.end;

  for (int64_t i = 0; i < (lanes.together ? 1 : lanes.count); ++i) {
    lanes.at[i] = columns.row(at.sample, at.outer) + at.inner * columns.inner;
    block.advance(at, 1);
  }
  return lanes;
}

template <typename X, typename P>
DGM_INLINE void load_parameters(
    const spline::Problem<X, P>& problem, const Block& block, Position at, int64_t count,
    float* tile) {
  for (int i = 0; i < problem.arrays; ++i) {
    const spline::Columns<const P>& columns = problem.parameters[i];
    if (columns.count == 0) continue;
    load_tile(columns, find_lanes(columns, block, at, count), tile);
    tile += columns.count * kLanes;
  }
}

template <typename P>
DGM_INLINE void prefetch(const P* begin, const P* end) {
  for (; begin < end; begin += 64 / sizeof(P)) __builtin_prefetch(begin);
}

// Asks for a tile's parameters while others are computed: the hardware looks ahead a kilobyte or
// two, and a few tiles take ten.
template <typename X, typename P>
DGM_INLINE void prefetch_parameters(
    const spline::Problem<X, P>& problem, const Block& block, Position at, int64_t count) {
  if (count <= 0) return;
  for (int i = 0; i < problem.arrays; ++i) {
    const spline::Columns<const P>& columns = problem.parameters[i];
    if (columns.count == 0) continue;
    const Lanes<const P> lanes = find_lanes(columns, block, at, count);
    if (columns.column != 1) {
      for (int64_t c = 0; c < columns.count; ++c) {
        __builtin_prefetch(lanes.at[0] + c * columns.column);
      }
    } else if (lanes.together && lanes.step == columns.count) {
      prefetch(lanes.at[0], lanes.at[0] + lanes.count * columns.count);
    } else {
      for (int64_t j = 0; j < lanes.count; ++j) prefetch(lanes[j], lanes[j] + columns.count);
    }
  }
}

// Loads a group's tiles from `at` on, where `left` elements of the block are, and finds its bins.
template <bool kGradients, typename X, typename P>
DGM_INLINE void open_group(
    const spline::Problem<X, P>& problem, const Block& block, Position at, int64_t left,
    const float* given, Group& group) {
  const int tiles = tiles_of(left);
  for (int i = 0; i < tiles; ++i, block.advance(at, kLanes)) {
    load_parameters(problem, block, at, left - i * kLanes, group.tile(i));
  }
  for (int i = 0; i < tiles; ++i, block.advance(at, kLanes)) {
    prefetch_parameters(problem, block, at, left - kGroup - i * kLanes);
    constrain_shares(group, i);
  }
  find_bins<kGradients>(group, given, tiles);
}

template <typename T>
DGM_INLINE void store_elements(T* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(from + i), count - i);
}

DGM_INLINE float sum_of(const float* values, int64_t count) {
  Vec total{};
  for (int64_t i = 0; i < count; i += kLanes)
    total += first(load(values + i, count - i), count - i);
  return sum(total);
}

// Maps a block's elements to y, and writes each one's log-slope.
template <typename X, typename P>
DGM_INLINE void forward_block(
    const spline::Problem<X, P>& problem, const Block& block, X* y, float* log_slopes) {
  alignas(64) float given[kBlock + kLanes];
  gather(problem.x, block, given);
  Group group(problem.options);

  Position at = block.first;
  for (int64_t i = 0; i < block.size(); i += kGroup, block.advance(at, kGroup)) {
    const int64_t left = block.size() - i;
    open_group<false>(problem, block, at, left, given + i, group);
    // In place.
    map_group(group, given + i, tiles_of(left), given + i, log_slopes + i);
  }
  store_elements(y, given, block.size());
}

template <typename X, typename P>
static void forward_spline(
    const spline::Problem<X, P>& problem, const spline::Results<X>& results) {
  const int64_t rows = problem.samples * problem.outer, inner = problem.inner;
  const int64_t pieces = std::max<int64_t>(1, (inner + kBlock - 1) / kBlock);
  std::vector<float> sums(rows * pieces);

  for_each_block(
      rows, problem.outer, inner, 20 * problem.options.bins,
      [&](const Block& block, int64_t row, int64_t piece) {
        alignas(64) float log_slopes[kBlock + kLanes];
        forward_block(problem, block, results.y + row * inner + block.first.inner, log_slopes);
        for (int64_t i = 0; i < block.rows; ++i) {
          sums[(row + i) * pieces + piece] =
              sum_of(log_slopes + i * block.length(), block.length());
        }
      });

  const int64_t parts = problem.outer * pieces;
  for (int64_t s = 0; s < problem.samples; ++s) {
    const float* part = sums.data() + s * parts;
    results.log_det[s] = static_cast<float>(std::accumulate(part, part + parts, 0.0));
  }
}

template <typename X, typename G>
DGM_INLINE void store_gradients(
    const spline::Gradients<X, G>& gradients, const Block& block, Position at, int64_t count,
    const float* tile) {
  for (int i = 0; i < gradients.arrays; ++i) {
    const spline::Columns<G>& columns = gradients.parameters[i];
    if (columns.data != nullptr) {
      store_tile(columns, find_lanes(columns, block, at, count), tile);
    }
    tile += columns.count * kLanes;
  }
}

// The gradients of a block's results, one for each element.
template <typename X, typename G>
DGM_INLINE void gather_gradients(
    const spline::Gradients<X, G>& gradients, const Block& block, float* grad_y,
    float* grad_log_slope) {
  gather(gradients.y, block, grad_y);

  const int64_t length = block.length();
  Position at = block.first;
  for (int64_t i = 0; i < block.rows; ++i, block.advance(at, length)) {
    const float* const grad = gradients.log_det;
    const float value = grad == nullptr ? 0.0f : grad[at.sample * gradients.log_det_stride];
    std::fill_n(grad_log_slope + i * length, length, value);
  }
}

// Differentiates a block's elements, whose gradients of parameters go to the elements of `to`.
template <typename X, typename P, typename G>
DGM_INLINE void backward_block(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, G>& gradients,
    const Block& block, const Block& to, X* grad_x) {
  alignas(64) float given[kBlock + kLanes];
  alignas(64) float grad_y[kBlock + kLanes];
  alignas(64) float grad_log_slope[kBlock + kLanes];
  gather(problem.x, block, given);
  gather_gradients(gradients, block, grad_y, grad_log_slope);
  Group group(problem.options);

  Position at = block.first, put = to.first;
  for (int64_t i = 0; i < block.size(); i += kGroup, block.advance(at, kGroup)) {
    const int64_t left = block.size() - i;
    const int tiles = tiles_of(left);
    open_group<true>(problem, block, at, left, given + i, group);
    // In place.
    differentiate_bins(group, given + i, grad_y + i, grad_log_slope + i, tiles, given + i);
    differentiate_parameters(group, tiles);
    for (int j = 0; j < tiles; ++j, to.advance(put, kLanes)) {
      store_gradients(gradients, to, put, left - j * kLanes, group.tile(j));
    }
  }
  if (grad_x != nullptr) store_elements(grad_x, given, block.size());
}

template <typename X, typename P>
static void backward_spline(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients) {
  const int64_t inner = problem.inner, work = 40 * problem.options.bins;
  for_each_block(
      problem.samples * problem.outer, problem.outer, inner, work,
      [&](const Block& block, int64_t row, int64_t) {
        X* const dense = gradients.x;
        backward_block(
            problem, gradients, block, block,
            dense == nullptr ? nullptr : dense + row * inner + block.first.inner);
      });
}

}  // namespace dgm::DGM_ISA
