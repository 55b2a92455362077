// Convolutions as sums over taps (common/taps.h); compiled once per instruction set, so without a
// guard. Sums are float32, in an order that follows from the shapes and the instruction set, never
// from the threads.

#include "common/conv_weights.h"
#include "common/tanh_gate.h"

namespace dgm::DGM_ISA {

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
    const Grid& grid, const Left& left, const Grid& from, const Images<const T>& x,
    const Start& start, const Finish& finish) {
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
DGM_APART void multiply_lines(const Left& left, const float* lines, const Block& block) {
  LiveLanes live;
  find_live(1, 0, 0, live);
  for (int64_t tile = 0; tile < tiles(left.rows, kRows); ++tile) {
    const Term term{left.at(tile, 0), lines, left.inner, live.of};
    add_terms<kVectors>(&term, &term + 1, kSpan, block.line(tile * kRows));
  }
}

// Sets a block's lines of channels to a bias, or to zero where there is none.
template <typename T>
DGM_APART void start_at(const T* bias, const OutputRows& rows, const Block& block) {
  rows.for_each([&](int64_t row, int64_t o) {
    std::fill_n(block.line(row), kSpan, bias != nullptr ? static_cast<float>(bias[o]) : 0.0f);
  });
}

// Adds images, if there are any, to a block's lines of channels, or writes these to images.
template <typename T>
DGM_APART void add_images(
    const Grid& grid, const Images<const T>& from, const OutputRows& rows, const Block& block) {
  if (!from) return;
  const std::vector<Run> runs = runs_of(grid, from, block.place, block.count);
  rows.for_each([&](int64_t row, int64_t o) {
    for (const Run& run : runs) {
      float values[kSpan];
      read_run(from.at(block.sample, o, run.row, run.column), from.column, run.count, values);
      for (int64_t i = 0; i < run.count; ++i) block.line(row)[run.offset + i] += values[i];
    }
  });
}

template <typename T>
DGM_APART void write_images(
    const Grid& grid, const Images<T>& to, const OutputRows& rows, const Block& block) {
  const std::vector<Run> runs = runs_of(grid, to, block.place, block.count);
  rows.for_each([&](int64_t row, int64_t o) {
    for (const Run& run : runs) {
      T* p = to.at(block.sample, o, run.row, run.column);
      write_run(p, to.column, block.line(row) + run.offset, run.count, to.streams);
    }
  });
}

// Gates the pairs of channels that a block's tiles hold, into lines of their own.
DGM_APART Block gate_pairs(const OutputRows& rows, const Block& block, float* lines) {
  const Block gated{block.sample, block.place, block.count, lines};
  rows.for_each([&](int64_t row, int64_t o) {
    if (o >= rows.out / 2) return;
    const float *a = block.line(row), *b = block.line(row + kRows / 2);
    for (int64_t i = 0; i < kSpan; i += kLanes) {
      store(gated.line(o) + i, gate(load(a + i), load(b + i)));
    }
  });
  return gated;
}

}  // namespace dgm::DGM_ISA
