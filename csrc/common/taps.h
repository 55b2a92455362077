// A convolution as a sum over taps, y[o, q] = sum over taps t and channels c of
// w[o, c, t] x[c, q + shift of t], where places q run over an image's pixels row by row. A shift
// that leaves the row reads a wrong pixel: a kernel masks it, or has rows lie apart with zeros
// between.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dgm {

// Images (or signals, of one column) where they lie, of any strides.
template <typename T>
struct Images {
  T* data;
  int64_t sample, channel, row, column;  // strides
  bool streams = false;                  // written past the caches

  T* at(int64_t s, int64_t c, int64_t r, int64_t w) const {
    return data + s * sample + c * channel + r * row + w * column;
  }
  explicit operator bool() const { return data != nullptr; }
};

template <typename T>
Images<const T> as_read(const Images<T>& x) {
  return {x.data, x.sample, x.channel, x.row, x.column};
}

// Where one element of a kernel reads, from the pixel it writes.
struct Tap {
  int64_t row, column;
  int64_t weight;  // its place in the kernel
  bool centre;     // where channels are ordered by group
};

// The taps of a causal kernel, of which element j reads the time that is lead - (k - 1 - j)
// dilation after the one it writes. One whose every product is with what lies before the signal is
// none.
inline std::vector<Tap> causal_taps(
    int64_t kernel, int64_t dilation, int64_t lead, int64_t out_length) {
  std::vector<Tap> taps;
  for (int64_t j = 0; j < kernel; ++j) {
    const int64_t shift = lead - (kernel - 1 - j) * dilation;
    if (shift > -out_length) taps.push_back({shift, 0, j, false});
  }
  return taps;
}

// Rows lie `pitch` places apart, pixels and then zeros.
struct Grid {
  int64_t samples, height, width, pitch;

  int64_t places() const { return height == 0 || width == 0 ? 0 : (height - 1) * pitch + width; }
};

inline std::vector<int64_t> shifts_of(const std::vector<Tap>& taps, int64_t pitch) {
  std::vector<int64_t> shifts;
  for (const Tap& tap : taps) shifts.push_back(tap.row * pitch + tap.column);
  return shifts;
}

// A run of pixels among places.
struct Run {
  int64_t offset, row, column, count;
};

// The runs of pixels within places [begin, begin + count) of an image. Rows that touch, in `x` as
// in places, are one.
template <typename T>
std::vector<Run> runs_of(Grid grid, const Images<T>& x, int64_t begin, int64_t count) {
  if (grid.pitch == grid.width && x.row == x.column * grid.width) {
    grid = {grid.samples, 1, grid.width * grid.height, grid.width * grid.height};
  }
  int64_t row = begin >= 0 ? begin / grid.pitch : -((-begin + grid.pitch - 1) / grid.pitch);
  int64_t column = begin - row * grid.pitch;

  std::vector<Run> runs;
  for (int64_t i = 0; i < count && row < grid.height; ++row, column = 0) {
    const int64_t n = std::min(grid.width - column, count - i);
    if (row >= 0 && n > 0) runs.push_back({i, row, column, n});
    i += grid.pitch - column;
  }
  return runs;
}

}  // namespace dgm
