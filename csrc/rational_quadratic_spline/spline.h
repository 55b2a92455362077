// Splines of blocks of elements; compiled once per instruction set, so without a guard.

#include "rational_quadratic_spline/parameters.h"

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
static void for_each_block(int64_t rows, int64_t outer, int64_t inner, int64_t work, const Run& run) {
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
    for (int64_t j = 0; j < lanes.count; ++j) __builtin_prefetch(lanes[j]);
  }
}

// Tiles that take each step together: a step's chain of dependent operations is long, and those of
// several tiles fill each other's gaps.
constexpr int kTiles = 8;

// Rows of a tile: all columns, one read before the slopes and one after, and spare ones.
DGM_INLINE int64_t tile_rows(int64_t bins) { return 3 * bins + 2 + kSpareRows; }

DGM_INLINE int tiles_of(int64_t count) {
  return static_cast<int>(std::min<int64_t>(kTiles, (count + kLanes - 1) / kLanes));
}

DGM_INLINE Vec clamp(Vec x, float bound) {
  return at_most(at_least(x, broadcast(-bound)), broadcast(bound));
}

// Finds the bins of up to kTiles tiles of a block, `count` elements of which are left; moves on.
template <int kBins, bool kGradients, typename X, typename P>
DGM_INLINE void find_bins(
    const spline::Problem<X, P>& problem, const Scales& scales, const Block& block, Position& at,
    int64_t left, const float* given, float* tile, float* clips, Bin* bins, Factors* factors) {
  const spline::Options& o = problem.options;
  const int64_t size = tile_rows(o.bins) * kLanes, count = kBins > 0 ? kBins : o.bins;
  const int tiles = tiles_of(left);

  for (int i = 0; i < tiles; ++i, block.advance(at, kLanes)) {
    load_parameters(problem, block, at, left - i * kLanes, tile + i * size);
  }
  for (int i = 0; o.zuko && i < tiles; ++i) {
    float* const derivatives = kGradients ? clips + i * size : nullptr;
    clip_softly(tile + i * size, 2 * count, 2.0f * scales.softness, derivatives);
  }
  Position next = at;
  for (int i = 0; i < tiles; ++i, block.advance(next, kLanes)) {
    prefetch_parameters(problem, block, next, left - (kTiles + i) * kLanes);
    factors[i].over_x = 1.0f / exponentials<kBins>(tile + i * size, count);
    factors[i].over_y = 1.0f / exponentials<kBins>(tile + i * size + count * kLanes, count);
  }
  for (int i = 0; i < tiles; ++i) {
    const Vec inside = clamp(load(given + i * kLanes), o.bound);
    bins[i] = find_bin<kBins>(o, scales, tile + i * size, factors[i], inside);
  }
  for (int i = 0; i < tiles; ++i) {
    constrain_slopes(
        o, scales, bins[i], kGradients ? &factors[i].slope0 : nullptr,
        kGradients ? &factors[i].slope1 : nullptr);
  }
}

template <int kBins, typename X, typename P>
DGM_INLINE void forward_block(
    const spline::Problem<X, P>& problem, const Block& block, float* tile, X* y, float* log_slopes) {
  const spline::Options& o = problem.options;
  const Scales scales(o);
  alignas(64) float given[kBlock + kLanes];
  gather(problem.x, block, given);

  const int64_t size = block.size();
  Position position = block.first;
  for (int64_t place = 0; place < size; place += kTiles * kLanes) {
    Bin bins[kTiles];
    Factors factors[kTiles];
    find_bins<kBins, false>(
        problem, scales, block, position, size - place, given + place, tile, nullptr, bins,
        factors);

    for (int i = 0; i < tiles_of(size - place); ++i) {
      const int64_t at = place + i * kLanes;
      const Vec x = load(given + at), inside = clamp(x, o.bound);
      const Place p = o.inverse ? place_of_y(bins[i], inside) : place_of_x(bins[i], inside);
      const Segment segment = segment_at(bins[i], p);
      const Vec log_slope = log(segment.slope);

      Vec result = o.inverse ? bins[i].x0 + p.theta * segment.w : y_of(bins[i], p, segment);
      const VecInt beyond = absolute(x) > o.bound;
      if (o.bounded) {
        const Vec slope = o.inverse ? 1.0f / segment.slope : segment.slope;
        result = beyond ? result + slope * (x - inside) : result;
      } else {
        result = beyond ? x : result;
      }
      store(y + at, result, size - at);
      const Vec kept = beyond && !o.bounded ? Vec{} : log_slope;
      store(log_slopes + at, o.inverse ? -kept : kept);
    }
  }
}

DGM_INLINE float sum_of(const float* values, int64_t count) {
  Vec total{};
  for (int64_t i = 0; i < count; i += kLanes) total += first(load(values + i, count - i), count - i);
  return sum(total);
}

template <typename X, typename P>
static void forward_spline(const spline::Problem<X, P>& problem, const spline::Results<X>& results) {
  const int64_t rows = problem.samples * problem.outer, inner = problem.inner;
  const int64_t pieces = std::max<int64_t>(1, (inner + kBlock - 1) / kBlock);
  std::vector<float> sums(rows * pieces);

  for_each_block(rows, problem.outer, inner, 20 * problem.options.bins, [&](const Block& block, int64_t row, int64_t piece) {
    Buffer tile(kTiles * tile_rows(problem.options.bins) * kLanes);
    alignas(64) float log_slopes[kBlock + kLanes];
    X* const y = results.y + row * inner + block.first.inner;
    if (problem.options.bins == 8) {
      forward_block<8>(problem, block, tile.data(), y, log_slopes);
    } else {
      forward_block<0>(problem, block, tile.data(), y, log_slopes);
    }
    for (int64_t i = 0; i < block.rows; ++i) {
      sums[(row + i) * pieces + piece] = sum_of(log_slopes + i * block.length(), block.length());
    }
  });

  const int64_t parts = problem.outer * pieces;
  for (int64_t s = 0; s < problem.samples; ++s) {
    const float* part = sums.data() + s * parts;
    results.log_det[s] = static_cast<float>(std::accumulate(part, part + parts, 0.0));
  }
}

// A block's results' gradients, and x, all as floats.
struct Given {
  alignas(64) float x[kBlock + kLanes];
  alignas(64) float grad_y[kBlock + kLanes];
  alignas(64) float grad_log_det[kBlock + kLanes];
};

template <typename X, typename P>
DGM_INLINE void gather_all(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients,
    const Block& block, Given& given) {
  gather(problem.x, block, given.x);
  gather(gradients.y, block, given.grad_y);

  Position at = block.first;
  float* to = given.grad_log_det;
  for (int64_t i = 0; i < block.rows; ++i, to += block.length(), block.advance(at, block.length())) {
    const float grad = gradients.log_det == nullptr
                           ? 0.0f
                           : gradients.log_det[at.sample * gradients.log_det_stride];
    std::fill(to, to + block.length(), grad);
  }
}

// Returns the gradient by what is given; those by the ends of its bin go to `by_bin`.
//
// Of the inverse by the implicit function: an end of the bin moves x by -1 / slope of what it moves
// y, and what depends on x goes along.
DGM_INLINE Vec gradients_by_bin(
    const spline::Options& o, const Bin& bin, Vec given, Vec grad_result, Vec grad_log_slope,
    BinGradients& by_bin) {
  const Vec inside = clamp(given, o.bound);
  const VecInt beyond = absolute(given) > o.bound;
  // The identity of the tails has no parameters.
  const VecInt identity = o.bounded ? VecInt{} : beyond;
  const Vec grad = identity ? Vec{} : grad_result;
  Vec grad_slope = identity ? Vec{} : grad_log_slope;

  const Place p = o.inverse ? place_of_y(bin, inside) : place_of_x(bin, inside);
  const Segment g = segment_at(bin, p);
  const LogSlope log_slope = log_slope_at(bin, p, g);
  // Beyond a bound the slope is constant.
  const Vec turn = beyond ? Vec{} : grad_slope * log_slope.by_theta / g.w;

  Vec grad_y = grad, by_theta = grad * g.slope * g.w + grad_slope * log_slope.by_theta;
  Vec by_given = grad * g.slope + turn, over = given - inside;
  if (o.inverse) {
    by_given = (grad - turn) / g.slope;
    grad_y = -by_given;
    by_theta = -grad * g.w;
    grad_slope = -grad_slope;
    over /= g.slope;
  }

  by_bin = gradients_at(bin, p, g, log_slope, grad_y, grad_slope, by_theta);
  if (o.bounded) {
    by_bin.d0 += given < 0.0f ? grad_y * over : Vec{};
    by_bin.d1 += given > 0.0f ? grad_y * over : Vec{};
  }
  return identity ? grad_result : by_given;
}

template <typename X, typename P>
DGM_INLINE void store_gradients(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients,
    const Block& block, Position at, int64_t count, const float* tile) {
  for (int i = 0; i < problem.arrays; ++i) {
    const spline::Columns<P>& columns = gradients.parameters[i];
    if (columns.data != nullptr) {
      store_tile(columns, find_lanes(columns, block, at, count), tile);
    }
    tile += problem.parameters[i].count * kLanes;
  }
}

template <int kBins, typename X, typename P>
DGM_INLINE void backward_block(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients,
    const Block& block, float* tile, float* clips, X* grad_x) {
  const spline::Options& o = problem.options;
  const Scales scales(o);
  Given given;
  gather_all(problem, gradients, block, given);

  const int64_t size = block.size(), tile_size = tile_rows(o.bins) * kLanes;
  Position position = block.first;
  for (int64_t place = 0; place < size; place += kTiles * kLanes) {
    Bin bins[kTiles];
    Factors factors[kTiles];
    BinGradients by_bin[kTiles];
    Position at = position;
    find_bins<kBins, true>(
        problem, scales, block, position, size - place, given.x + place, tile, clips, bins,
        factors);

    const int tiles = tiles_of(size - place);
    for (int i = 0; i < tiles; ++i) {
      const int64_t lane = place + i * kLanes;
      const Vec by_given = gradients_by_bin(
          o, bins[i], load(given.x + lane), load(given.grad_y + lane),
          load(given.grad_log_det + lane), by_bin[i]);
      if (grad_x != nullptr) store(grad_x + lane, by_given, size - lane);
    }
    for (int i = 0; i < tiles; ++i) {
      gradients_of_parameters<kBins>(
          o, scales, bins[i], factors[i], by_bin[i], o.zuko ? clips + i * tile_size : nullptr,
          tile + i * tile_size);
    }
    for (int i = 0; i < tiles; ++i, block.advance(at, kLanes)) {
      store_gradients(
          problem, gradients, block, at, size - place - i * kLanes, tile + i * tile_size);
    }
  }
}

template <typename X, typename P>
static void backward_spline(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients) {
  const spline::Options& o = problem.options;
  const int64_t inner = problem.inner, tiles = kTiles * tile_rows(o.bins) * kLanes;
  for_each_block(
      problem.samples * problem.outer, problem.outer, inner, 40 * o.bins,
      [&](const Block& block, int64_t row, int64_t) {
        Buffer scratch(o.zuko ? 2 * tiles : tiles);
        float *const tile = scratch.data(), *const clips = tile + (o.zuko ? tiles : 0);
        X* const grad_x =
            gradients.x == nullptr ? nullptr : gradients.x + row * inner + block.first.inner;
        if (o.bins == 8) {
          backward_block<8>(problem, gradients, block, tile, clips, grad_x);
        } else {
          backward_block<0>(problem, gradients, block, tile, clips, grad_x);
        }
      });
}

}  // namespace dgm::DGM_ISA
