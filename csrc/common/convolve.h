// Convolutions as sums over taps (common/taps.h); compiled once per instruction set, so without a
// guard.
//
// The tile holds kRows x (up to 3 vectors) sums. Rows are channels, whose operand is broadcast;
// lanes are places of an image, or for the weight's gradient the other side's channels. Sums are
// float32, in an order that follows from the shapes and the instruction set, never from the
// threads.

#include "common/math.h"

namespace dgm::DGM_ISA {

// 8 x 3 sums, 3 vectors and 1 broadcast fill 28 of 32 registers; 4 x 3 fill 16 of 16.
constexpr int kRows = DGM_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int kVectors = 3;
constexpr int kSpan = kVectors * kLanes;
constexpr int64_t kDepth = 16;         // inner channels whose planes stay in the first cache
constexpr int64_t kScratch = 1 << 16;  // floats of an image that a task holds: a quarter of 1 MiB

DGM_INLINE int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// A distance of `size` floats or a little more that is an odd number of cache lines, so that
// neighbours fall in different sets.
DGM_INLINE int64_t odd_lines(int64_t size) { return (tiles(size, 16) | 1) * 16; }

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

template <typename T>
DGM_INLINE void convert(const T* from, int64_t count, float* to) {
  for_each_vector(count, [&](int64_t i, int64_t n) {
    if (n == kLanes) return store(to + i, load(from + i));
    for (int64_t j = 0; j < n; ++j) to[i + j] = static_cast<float>(from[i + j]);
  });
}

// Reads a run of one channel's pixels.
template <typename T>
DGM_INLINE void read_run(const T* p, int64_t stride, int64_t count, float* line) {
  if (stride == 1) return convert(p, count, line);
  for (int64_t i = 0; i < count; ++i) line[i] = static_cast<float>(p[i * stride]);
}

// Calls gap(offset, count) for what lies between, before and after runs, up to `end`.
template <typename Gap>
DGM_INLINE void for_each_gap(const std::vector<Run>& runs, int64_t end, const Gap& gap) {
  int64_t i = 0;
  for (const Run& run : runs) {
    if (run.offset > i) gap(i, run.offset - i);
    i = run.offset + run.count;
  }
  if (end > i) gap(i, end - i);
}

// planes[c][i] = x[c, begin + i] for i < count, zero between the pixels and up to `end`.
template <typename T>
static void pack_planes(
    const Images<const T>& x, int64_t sample, int64_t channel0, int64_t channels, const Grid& grid,
    int64_t begin, int64_t count, int64_t end, int64_t plane, float* planes) {
  const std::vector<Run> runs = runs_of(grid, x, begin, count);
  for (int64_t c = 0; c < channels; ++c, planes += plane) {
    for (const Run& run : runs) {
      const T* p = x.at(sample, channel0 + c, run.row, run.column);
      read_run(p, x.column, run.count, planes + run.offset);
    }
    for_each_gap(runs, end, [&](int64_t i, int64_t n) { std::fill_n(planes + i, n, 0.0f); });
  }
}

// lines[i][c] = x[c, begin + i] for i < count, zero at places between pixels and up to `line`.
template <typename T>
static void pack_lines(
    const Images<const T>& x, int64_t sample, int64_t channels, const Grid& grid, int64_t begin,
    int64_t count, int64_t line, float* lines) {
  const std::vector<Run> runs = runs_of(grid, x, begin, count);
  for (const auto& [offset, row, column, n] : runs) {
    for (int64_t c0 = 0; c0 < channels; c0 += kLanes) {
      const int64_t width = std::min<int64_t>(kLanes, channels - c0);
      float* to = lines + offset * line + c0;
      int64_t j = 0;
      for (; x.column == 1 && width == kLanes && j + kLanes <= n; j += kLanes) {
        Vec square[kLanes];
        for (int c = 0; c < kLanes; ++c) square[c] = load(x.at(sample, c0 + c, row, column + j));
        transpose(square);
        for (int k = 0; k < kLanes; ++k) store(to + (j + k) * line, square[k]);
      }
      for (; j < n; ++j) {
        read_run(x.at(sample, c0, row, column + j), x.channel, width, to + j * line);
        std::fill_n(to + j * line + width, std::min<int64_t>(line - c0, kLanes) - width, 0.0f);
      }
    }
  }
  for_each_gap(
      runs, count, [&](int64_t i, int64_t n) { std::fill_n(lines + i * line, n * line, 0.0f); });
}

// What a block of up to `span` places reads at all shifts: one stretch that covers them or, where
// the shifts are further apart than that is worth, one for each.
struct Windows {
  Windows(const std::vector<int64_t>& shifts, int64_t span) : shifts(shifts) {
    const int64_t whole = tiles(span, kLanes) * kLanes;
    count = static_cast<int64_t>(shifts.size());
    if (count > 0) {
      low = *std::min_element(shifts.begin(), shifts.end());
      halo = *std::max_element(shifts.begin(), shifts.end()) - low;
    }
    apart = halo + span > count * span;
    end = apart ? whole : whole + halo;
    plane = odd_lines(apart ? count * end : end);
  }

  // Where the window of shift t begins in a plane.
  int64_t at(int64_t t) const { return apart ? t * end : shifts[t] - low; }

  template <typename T>
  void read(
      const Images<const T>& x, int64_t sample, int64_t channel0, int64_t channels,
      const Grid& grid, int64_t begin, int64_t places, float* planes) const {
    const auto pack = [&](int64_t from, int64_t length, float* to) {
      pack_planes(x, sample, channel0, channels, grid, from, length, end, plane, to);
    };
    if (!apart) return pack(begin + low, places + halo, planes);
    for (int64_t t = 0; t < count; ++t) pack(begin + shifts[t], places, planes + t * end);
  }

  std::vector<int64_t> shifts;
  int64_t count, low = 0, halo = 0;
  bool apart;
  int64_t end, plane;
};

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
        ranges(tiles(rows, kRows) * count(), Range{0, inner}),
        packed(tiles(rows, kRows) * kRows * inner * count()) {}

  int64_t count() const { return static_cast<int64_t>(taps.size()); }
  float* at(int64_t tile, int64_t tap) const {
    return packed.data() + (tile * count() + tap) * inner * kRows;
  }
  Range& range(int64_t tile, int64_t tap) { return ranges[tile * count() + tap]; }

  int64_t rows, inner;
  std::vector<Tap> taps;
  std::vector<Range> ranges;
  Buffer packed;
};

// Packs value(row, tap, k), which is zero for rows there are not.
template <typename Value>
static void pack_left(Left& left, const Value& value) {
  run_tasks(tiles(left.rows, kRows), left.rows * left.inner * left.count(), [&](int64_t tile) {
    for (int64_t m = 0; m < kRows; ++m) {
      for (int64_t t = 0; t < left.count(); ++t) {
        float* to = left.at(tile, t) + m;
        for (int64_t k = 0; k < left.inner; ++k) {
          to[k * kRows] = value(tile * kRows + m, left.taps[t], k);
        }
      }
    }
  });
}

// The taps of the sum turned around: where an input's gradient comes from.
static std::vector<Tap> turned(std::vector<Tap> taps) {
  for (Tap& tap : taps) tap = {-tap.row, -tap.column, tap.weight, tap.centre};
  return taps;
}

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

// planes[t][c][i] = x[c, begin + i + shift of tap t], zero where the shift leaves the row: one
// plane for every product of a place, whatever its tap.
template <typename T>
static void gather_planes(
    const Left& left, const std::vector<int64_t>& shifts, const Images<const T>& x, int64_t sample,
    const Grid& from, int64_t begin, int64_t count, int64_t plane, float* planes) {
  for (int64_t t = 0; t < left.count(); ++t, planes += left.inner * plane) {
    pack_planes(x, sample, 0, left.inner, from, begin + shifts[t], count, plane, plane, planes);
    const int64_t column = left.taps[t].column;
    const int64_t first = column < 0 ? 0 : from.width - column, width = std::abs(column);
    for (int64_t i = first - begin % from.width; width > 0 && i < count; i += from.width) {
      const int64_t low = std::max<int64_t>(0, i), high = std::min(count, i + width);
      for (int64_t c = 0; c < left.inner && low < high; ++c) {
        std::fill(planes + c * plane + low, planes + c * plane + high, 0.0f);
      }
    }
  }
}

// Some places of an image, and a line of sums for each row of every tile.
struct Block {
  int64_t sample, place, count;
  float* sums;

  float* line(int64_t row) const { return sums + row * kSpan; }
};

// Convolves images whose rows touch: for every block of places of `grid`, start(block) sets the
// sums, the convolution of x, which has the places of `from`, is added, and finish(block) takes
// them.
template <typename T, typename Start, typename Finish>
static void convolve(
    const Grid& grid, Left& left, const Grid& from, const Images<const T>& x, const Start& start,
    const Finish& finish) {
  const std::vector<int64_t> shifts = shifts_of(left.taps, grid.pitch);
  const int64_t places = grid.places(), tile_count = tiles(left.rows, kRows);
  if (places == 0 || grid.samples == 0 || left.rows == 0) return;

  // Few channels make short loops, so their taps become channels, too.
  const bool gathers = left.count() > 1 && left.inner < kDepth;
  const int64_t depth = gathers ? left.inner * left.count() : left.inner;

  // As long as the scratch allows, but not so long that threads have nothing to do.
  const int64_t tasks_wanted = 4 * torch::stable::get_num_threads();
  const int64_t room = kScratch / std::max<int64_t>(1, depth);
  int64_t span = room;
  if (!gathers) {
    span = std::max(
        {room - Windows(shifts, 1).halo, room / std::max<int64_t>(1, left.count()), room / 4});
  }
  span = std::min(span, tiles(places * grid.samples, tasks_wanted));
  const int64_t bands = tiles(places, std::max<int64_t>(span, 2 * kSpan));
  span = tiles(tiles(places, bands), kLanes) * kLanes;

  const int64_t work = places * grid.samples * left.rows * left.inner * left.count();
  run_tasks(grid.samples * bands, work, [&](int64_t task) {
    const int64_t sample = task / bands, begin = task % bands * span;
    const int64_t count = std::min(span, places - begin);
    if (count <= 0) return;

    const Windows windows(shifts, count);
    const int64_t plane = gathers ? odd_lines(tiles(count, kLanes) * kLanes) : windows.plane;
    Buffer scratch(depth * plane), all_sums(tile_count * kRows * kSpan);
    if (gathers) {
      gather_planes(left, shifts, x, sample, from, begin, count, plane, scratch.data());
    } else {
      windows.read(x, sample, 0, left.inner, from, begin, count, scratch.data());
    }
    // Not a vector's memory: masks may be as wide as registers, and are aligned as these are.
    Buffer masks(tiles(std::max<int64_t>(1, left.count()) * sizeof(LiveLanes), sizeof(float)));
    auto* live = reinterpret_cast<LiveLanes*>(masks.data());
    std::vector<Term> terms(gathers ? 1 : left.count());
    if (gathers) find_live(1, 0, 0, live[0]);

    for_each_span(tiles(count, kLanes), [&](auto vectors, int64_t v0) {
      constexpr int V = decltype(vectors)::value;
      const int64_t place = v0 * kLanes, n = std::min<int64_t>(V * kLanes, count - place);
      const int64_t column = (begin + place) % grid.width;
      for (int64_t t = 0; t < left.count() && !gathers; ++t) {
        find_live(grid.width, column, left.taps[t].column, live[t]);
      }

      const Block block{sample, begin + place, n, all_sums.data()};
      start(block);
      // A chunk of channels stays in the first cache for all taps and tiles.
      for (int64_t k0 = 0; k0 < left.inner; k0 += kDepth) {
        for (int64_t tile = 0; tile < tile_count; ++tile) {
          if (gathers) terms[0] = {left.at(tile, 0), scratch.data() + place, depth, live[0].of};
          for (int64_t t = 0; t < left.count() && !gathers; ++t) {
            const auto range = left.range(tile, t);
            const int64_t first = std::max(k0, range.begin);
            const int64_t last = std::min(k0 + kDepth, range.end);
            terms[t] = {
                left.at(tile, t) + first * kRows,
                scratch.data() + first * plane + windows.at(t) + place, last - first, live[t].of};
          }
          add_terms<V>(terms.data(), terms.data() + terms.size(), plane, block.line(tile * kRows));
        }
      }

      finish(block);
    });
    streams_are_done();
  });
}

// Adds left's products with lines that are kSpan apart, one for each of its inner channels, to
// sums.
DGM_INLINE void multiply_lines(const Left& left, const float* lines, const Block& block) {
  LiveLanes live;
  find_live(1, 0, 0, live);
  for (int64_t tile = 0; tile < tiles(left.rows, kRows); ++tile) {
    const Term term{left.at(tile, 0), lines, left.inner, live.of};
    add_terms<kVectors>(&term, &term + 1, kSpan, block.line(tile * kRows));
  }
}

// Writes a run of one channel's pixels.
template <typename T>
DGM_INLINE void write_run(T* p, int64_t stride, const float* line, int64_t count, bool streams) {
  streams = streams && is_aligned(p);
  if (stride == 1) {
    for_each_vector(count, [&](int64_t i, int64_t n) {
      if (n == kLanes) return put(p + i, load(line + i), n, streams);
      for (int64_t j = 0; j < n; ++j) p[i + j] = static_cast<T>(line[i + j]);
    });
  } else {
    for (int64_t i = 0; i < count; ++i) p[i * stride] = static_cast<T>(line[i]);
  }
}

// Adds the same places of a channel of images to its line, and writes a line to them.
template <typename T>
DGM_INLINE void add_channel(
    const std::vector<Run>& runs, const Images<const T>& from, int64_t sample, int64_t channel,
    float* line) {
  for (const Run& run : runs) {
    const T* p = from.at(sample, channel, run.row, run.column);
    float values[kSpan];
    read_run(p, from.column, run.count, values);
    for (int64_t i = 0; i < run.count; ++i) line[run.offset + i] += values[i];
  }
}

template <typename T>
DGM_INLINE void write_channel(
    const std::vector<Run>& runs, const Images<T>& to, int64_t sample, int64_t channel,
    const float* line) {
  for (const Run& run : runs) {
    T* p = to.at(sample, channel, run.row, run.column);
    write_run(p, to.column, line + run.offset, run.count, to.streams);
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

// Sums over images and places: of x[c, q + shift(t)] grad[o, q] for every tap t and channel c, and
// of grad[o, q] alone, which is the bias's gradient. `kParts` parts of the samples are summed
// apart.
class WeightSums {
 public:
  static constexpr int64_t kParts = 16, kChannels = 32;
  static constexpr int64_t kFloats = 1 << 24;  // of all parts: 64 MiB

  // `grid` has the places of grad, `from` those of x.
  WeightSums(
      const Grid& grid, const Grid& from, int64_t in, int64_t out, const std::vector<Tap>& taps)
      : grid_(apart(grid, taps)),
        from_(apart(from, taps)),
        in_(in),
        out_(out),
        shifts_(shifts_of(taps, grid_.pitch)),
        line_(tiles(out, kLanes) * kLanes),
        length_(std::clamp<int64_t>(kScratch / 2 / line_, 64, 1024)),
        bands_(tiles(grid_.places(), length_)),
        size_((1 + in * tap_count()) * line_),
        parts_(std::min({kParts, std::max<int64_t>(1, kFloats / size_), grid.samples * bands_})),
        sums_(parts_ * size_) {
    std::fill_n(sums_.data(), parts_ * size_, 0.0f);
  }

  template <typename T>
  void add(const Images<const T>& x, const Images<const T>& grad) {
    const int64_t groups = std::max<int64_t>(1, tiles(in_, kChannels)), places = grid_.places();
    const int64_t work = grid_.samples * places * in_ * out_ * tap_count();

    run_tasks(parts_ * groups, work, [&](int64_t task) {
      const int64_t part = task / groups, channel0 = task % groups * kChannels;
      Band band(*this, channel0, std::min(kChannels, in_ - channel0));
      const int64_t units = grid_.samples * bands_, end = units * (part + 1) / parts_;
      for (int64_t i = units * part / parts_; i < end; ++i) {
        const int64_t begin = i % bands_ * length_;
        band.read(x, grad, i / bands_, begin, std::min(length_, places - begin));
        band.add_to(sums_.data() + part * size_);
      }
    });
  }

  // The same images with as many zeros after a row as the taps reach beyond it.
  static Grid apart(Grid grid, const std::vector<Tap>& taps) {
    int64_t zeros = 0;
    for (const Tap& tap : taps) zeros = std::max(zeros, std::abs(tap.column));
    grid.pitch = grid.width + zeros;
    return grid;
  }

  // Writes a gradient (out, in, kernel), zero at elements that are no tap.
  template <typename T>
  void write(const std::vector<Tap>& taps, int64_t kernel, T* grad_weight) const {
    run_tasks(out_, out_ * in_ * kernel * parts_, [&](int64_t o) {
      T* line = grad_weight + o * in_ * kernel;
      std::fill_n(line, in_ * kernel, static_cast<T>(0.0f));
      for (std::size_t t = 0; t < taps.size(); ++t) {
        for (int64_t c = 0; c < in_; ++c) {
          line[c * kernel + taps[t].weight] = static_cast<T>(weight(t, c, o));
        }
      }
    });
  }

  float bias(int64_t o) const { return total(o); }
  float weight(int64_t tap, int64_t c, int64_t o) const {
    return total((1 + tap * in_ + c) * line_ + o);
  }

 private:
  int64_t tap_count() const { return static_cast<int64_t>(shifts_.size()); }

  float total(int64_t place) const {
    float sum = 0.0f;
    for (int64_t part = 0; part < parts_; ++part) {
      sum += sums_.data()[part * size_ + place];
    }
    return sum;
  }

  // What a task holds of an image: the places of some channels of x, those of grad by place.
  struct Band {
    Band(const WeightSums& all, int64_t channel0, int64_t channels)
        : all(all),
          channel0(channel0),
          channels(channels),
          windows(all.shifts_, all.length_),
          x(channels * windows.plane + all.length_),
          grad(all.length_ * all.line_) {
      std::fill_n(x.data() + channels * windows.plane, all.length_, 1.0f);
      // The bias is the weight of a channel that is one everywhere.
      if (channel0 == 0) rows.push_back({x.data() + channels * windows.plane, 0});
      for (int64_t t = 0; t < all.tap_count(); ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t row = 1 + t * all.in_ + channel0 + c;
          rows.push_back({x.data() + c * windows.plane + windows.at(t), row});
        }
      }
    }

    template <typename T>
    void read(
        const Images<const T>& from_x, const Images<const T>& from_grad, int64_t sample, int64_t q,
        int64_t n) {
      count = n;
      windows.read(from_x, sample, channel0, channels, all.from_, q, n, x.data());
      pack_lines(from_grad, sample, all.out_, all.grid_, q, n, all.line_, grad.data());
    }

    void add_to(float* sums) {
      const int64_t size = static_cast<int64_t>(rows.size());
      float unused[kSpan] = {};
      for (int64_t row0 = 0; row0 < size; row0 += kRows) {
        const float* left[kRows];
        for (int m = 0; m < kRows; ++m) left[m] = rows[std::min(row0 + m, size - 1)].values;

        for_each_span(all.line_ / kLanes, [&](auto vectors, int64_t v0) {
          // Rows beyond the last have nowhere to go.
          float* lines[kRows];
          for (int m = 0; m < kRows; ++m) {
            const bool live = row0 + m < size;
            lines[m] = live ? sums + rows[row0 + m].place * all.line_ + v0 * kLanes : unused;
          }
          add_products<decltype(vectors)::value>(
              left, grad.data() + v0 * kLanes, count, all.line_, lines);
        });
      }
    }

    struct Row {
      const float* values;
      int64_t place;  // of its sums
    };

    const WeightSums& all;
    int64_t channel0, channels;
    int64_t count = 0;
    Windows windows;
    Buffer x, grad;
    std::vector<Row> rows;
  };

  Grid grid_, from_;
  int64_t in_, out_;
  std::vector<int64_t> shifts_;
  int64_t line_, length_, bands_, size_, parts_;
  Buffer sums_;
};

}  // namespace dgm::DGM_ISA
