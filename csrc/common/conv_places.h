// Places of images, read and written; compiled once per instruction set, so without a guard. Of
// conv_places.h, conv_tile.h, conv_weights.h and convolve.h each includes the one before.

#include "common/math.h"

namespace dgm::DGM_ISA {

DGM_INLINE int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// A distance of `size` floats or a little more that is an odd number of cache lines, so that
// neighbours fall in different sets.
DGM_INLINE int64_t odd_lines(int64_t size) { return (tiles(size, 16) | 1) * 16; }

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

// Writes a run of one channel's pixels.
template <typename T>
DGM_APART void write_run(T* p, int64_t stride, const float* line, int64_t count, bool streams) {
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

}  // namespace dgm::DGM_ISA
