// The register tile of convolutions, and what it broadcasts; compiled once per instruction set, so
// without a guard.
//
// The tile holds kRows x (up to 3 vectors) sums. Rows are channels, whose operand is broadcast;
// lanes are places of an image, or for the weight's gradient the other side's channels.

#include "common/conv_places.h"

namespace dgm::DGM_ISA {

// 8 x 3 sums, 3 vectors and 1 broadcast fill 28 of 32 registers; 4 x 3 fill 16 of 16.
constexpr int kRows = DGM_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int kVectors = 3;
constexpr int kSpan = kVectors * kLanes;
constexpr int64_t kDepth = 16;         // inner channels whose planes stay in the first cache
constexpr int64_t kScratch = 1 << 16;  // floats of an image that a task holds: a quarter of 1 MiB

template <int n>
struct Count {
  static constexpr int value = n;
};

// Calls f(Count<V>{}, first) for blocks of V = 1 ... 3 vectors that are as equal as they can be: a
// block of one vector waits for its broadcasts.
template <typename F>
DGM_INLINE void for_each_span(int64_t vectors, const F& f) {
  const int64_t blocks = tiles(vectors, kVectors);
  for (int64_t i = 0, v = 0; i < blocks; ++i) {
    const int64_t n = vectors * (i + 1) / blocks - v;
    if (n == 3) f(Count<3>{}, v);
    if (n == 2) f(Count<2>{}, v);
    if (n == 1) f(Count<1>{}, v);
    v += n;
  }
}

// Weights as the tile broadcasts them: [tile][tap][k][row of the tile], with the range of inner
// channels k that are live for a tile at each tap.
struct Left {
  struct Range {
    int64_t begin, end;
  };

  Left(int64_t rows, int64_t inner, std::vector<Tap> taps)
      : rows(rows),
        inner(inner),
        taps(std::move(taps)),
        ranges(tiles(rows, kRows) * count()),
        packed(tiles(rows, kRows) * kRows * inner * count()) {}

  int64_t count() const { return static_cast<int64_t>(taps.size()); }
  float* at(int64_t tile, int64_t tap) const {
    return packed.data() + (tile * count() + tap) * inner * kRows;
  }
  Range& range(int64_t tile, int64_t tap) { return ranges[tile * count() + tap]; }
  const Range& range(int64_t tile, int64_t tap) const { return ranges[tile * count() + tap]; }

  int64_t rows, inner;
  std::vector<Tap> taps;
  std::vector<Range> ranges;
  Buffer packed;
};

// The output channels of the rows of tiles. Under a gate both channels of a pair are in one tile:
// half of its rows are of the first half of the channels, half of the second.
struct OutputRows {
  int64_t out;
  bool gated;

  int64_t count() const { return (gated ? tiles(out / 2, kRows / 2) : tiles(out, kRows)) * kRows; }

  // The channel of a row, or -1.
  int64_t channel(int64_t row) const {
    if (!gated) return row < out ? row : -1;
    const int64_t m = row % kRows, pair = row / kRows * (kRows / 2) + m % (kRows / 2);
    return pair < out / 2 ? pair + m / (kRows / 2) * (out / 2) : -1;
  }

  // Calls f(row, channel).
  template <typename F>
  void for_each(const F& f) const {
    for (int64_t row = 0; row < count(); ++row) {
      if (const int64_t o = channel(row); o >= 0) f(row, o);
    }
  }
};

// What an op's weight (out, in, kernel) holds; `live(tap, o, c)` says where it is not masked.
template <typename T>
struct Weight {
  const T* data;
  int64_t out, in, kernel;

  float at(int64_t o, int64_t c, const Tap& tap) const {
    return static_cast<float>(data[(o * in + c) * kernel + tap.weight]);
  }
};

struct AllLive {
  bool operator()(const Tap&, int64_t, int64_t) const { return true; }
};

// Packs weight(row, tap, k) where live(row, tap, k), zero elsewhere, and notes where any is live.
template <typename Live, typename Value>
static void pack(Left& left, const Live& live, const Value& value) {
  run_tasks(tiles(left.rows, kRows), left.rows * left.inner * left.count(), [&](int64_t tile) {
    for (int64_t t = 0; t < left.count(); ++t) {
      Left::Range range{left.inner, 0};
      for (int64_t k = 0; k < left.inner; ++k) {
        for (int64_t m = 0; m < kRows; ++m) {
          const int64_t row = tile * kRows + m;
          const bool is_live = live(row, left.taps[t], k);
          left.at(tile, t)[k * kRows + m] = is_live ? value(row, left.taps[t], k) : 0.0f;
          if (is_live) range = {std::min(range.begin, k), k + 1};
        }
      }
      left.range(tile, t) = range;
    }
  });
}

// The weights that make outputs of inputs.
template <typename T, typename Live = AllLive>
static Left pack_outputs(
    const Weight<T>& weight, const OutputRows& rows, const std::vector<Tap>& taps,
    const Live& live = {}) {
  Left left(rows.count(), weight.in, taps);
  pack(
      left,
      [&](int64_t row, const Tap& tap, int64_t c) {
        const int64_t o = rows.channel(row);
        return o >= 0 && live(tap, o, c);
      },
      [&](int64_t row, const Tap& tap, int64_t c) { return weight.at(rows.channel(row), c, tap); });
  return left;
}

// The weights that make inputs' gradients of outputs': the sum turned around.
template <typename T, typename Live = AllLive>
static Left pack_inputs(const Weight<T>& weight, std::vector<Tap> taps, const Live& live = {}) {
  for (Tap& tap : taps) tap = {-tap.row, -tap.column, tap.weight, tap.centre};
  Left left(weight.in, weight.out, std::move(taps));
  pack(
      left, [&](int64_t c, const Tap& tap, int64_t o) { return c < weight.in && live(tap, o, c); },
      [&](int64_t c, const Tap& tap, int64_t o) { return weight.at(o, c, tap); });
  return left;
}

struct LiveLanes {
  LaneMask of[kVectors];
};

// Which of a block's places, the first of them in column `first`, have a pixel `column` to their
// right.
static void find_live(int64_t width, int64_t first, int64_t column, LiveLanes& live) {
  for (LaneMask& mask : live.of) {
    bool lanes[kLanes];
    for (bool& lane : lanes) {
      lane = first + column >= 0 && first + column < width;
      first = first + 1 == width ? 0 : first + 1;
    }
    mask = lane_mask(lanes);
  }
}

// What one tap adds to a tile: `depth` products of left[k][m] and right[k][v].
struct Term {
  const float *left, *right;
  int64_t depth;
  const LaneMask* live;
};

// Adds terms to kRows lines of V vectors of sums. A function of its own, so that the sums stay in
// registers whatever surrounds it.
template <int V>
static __attribute__((noinline)) void add_terms(
    const Term* term, const Term* end, int64_t plane, float* lines) {
  Vec sums[kRows][V];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < V; ++v) sums[m][v] = load(lines + m * kSpan + v * kLanes);
  }

  for (; term != end; ++term) {
    LaneMask live[V];
    for (int v = 0; v < V; ++v) live[v] = term->live[v];
    const float *left = term->left, *right = term->right;

    for (int64_t k = 0; k < term->depth; ++k, left += kRows, right += plane) {
      Vec b[V];
      for (int v = 0; v < V; ++v) b[v] = load_live(right + v * kLanes, live[v]);

#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const Vec a = broadcast(left[m]);
        for (int v = 0; v < V; ++v) sums[m][v] += a * b[v];
      }
    }
  }

#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < V; ++v) store(lines + m * kSpan + v * kLanes, sums[m][v]);
  }
}

// Adds the sums over i < count of left[m][i] right[i][v] to V vectors of kRows lines.
template <int V>
static __attribute__((noinline)) void add_products(
    const float* const (&left)[kRows], const float* right, int64_t count, int64_t line,
    float* const (&lines)[kRows]) {
  Vec sums[kRows][V] = {};
  for (int64_t i = 0; i < count; ++i, right += line) {
    Vec b[V];
    for (int v = 0; v < V; ++v) b[v] = load(right + v * kLanes);

#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const Vec a = broadcast(left[m][i]);
      for (int v = 0; v < V; ++v) sums[m][v] += a * b[v];
    }
  }

#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < V; ++v) {
      store(lines[m] + v * kLanes, load(lines[m] + v * kLanes) + sums[m][v]);
    }
  }
}

}  // namespace dgm::DGM_ISA
