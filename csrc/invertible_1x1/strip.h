// Strips of pixels, and the products and solves that run over them; compiled once per instruction
// set, so without a guard.
//
// A strip holds kStrip pixels as [channel][pixel] float32: lanes are pixels, which lie side by side
// in an image, so that nothing is transposed on the way.

#include "common/vec.h"

namespace dgm::DGM_ISA {

using dgm::invertible_1x1::Images;
using dgm::invertible_1x1::Sizes;

// 12 x 2 accumulators, 2 vectors and 1 broadcast fill 27 of 32 registers; 6 x 2 fill 15 of 16.
constexpr int kRows = DGM_VECTOR_BYTES == 64 ? 12 : 6;
constexpr int kWidth = 2 * kLanes;
constexpr int kStrip = 4 * kWidth;
constexpr int kPitch = kStrip + kLanes;  // off a power of two: rows fall in different cache sets

DGM_INLINE int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// The pixels of a strip, all samples' counted through, in runs that lie in one sample.
struct Runs {
  struct Run {
    int64_t sample, pixel;
    int place, count;
  };

  Run run[kStrip];
  int size = 0, count = 0;

  DGM_INLINE_MEMBER Runs(const Sizes& sizes, int64_t strip) {
    const int64_t begin = strip * kStrip;
    count = static_cast<int>(std::min<int64_t>(kStrip, sizes.columns() - begin));
    int64_t sample = begin / sizes.pixels, pixel = begin % sizes.pixels;
    for (int place = 0; place < count; ++sample, pixel = 0) {
      const int length = static_cast<int>(std::min<int64_t>(sizes.pixels - pixel, count - place));
      run[size++] = {sample, pixel, place, length};
      place += length;
    }
  }
};

// Whether panels of kWidth pixels can be read and written where they lie.
template <typename T>
DGM_INLINE bool in_panels(const Sizes& sizes, const Images<T>& images) {
  return images.pixel_stride == 1 && sizes.pixels % kWidth == 0;
}

template <typename T>
DGM_INLINE T* first_pixel(const Images<T>& images, const Runs::Run& run) {
  return images.data + run.sample * images.sample_stride + run.pixel * images.pixel_stride;
}

// Reads kLanes pixels of channels that lie side by side.
template <typename T>
DGM_INLINE void read_across(
    const T* pixel, int64_t stride, int64_t channels, const int64_t* row, float* strip) {
  for (int64_t c0 = 0; c0 < channels; c0 += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, channels - c0);
    Vec square[kLanes];
    for (int j = 0; j < kLanes; ++j) square[j] = load(pixel + j * stride + c0, count);
    transpose(square);
    for (int64_t i = 0; i < count; ++i) {
      store(strip + (row ? row[c0 + i] : c0 + i) * kPitch, square[i]);
    }
  }
}

template <typename T>
DGM_INLINE void write_across(
    const float* strip, T* pixel, int64_t stride, int64_t channels, const int64_t* row) {
  for (int64_t c0 = 0; c0 < channels; c0 += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, channels - c0);
    Vec square[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) {
      square[i] = load(strip + (row ? row[c0 + i] : c0 + i) * kPitch);
    }
    transpose(square);
    for (int j = 0; j < kLanes; ++j) store(pixel + j * stride + c0, square[j], count);
  }
}

// Reads a strip, zeros beyond its last pixel; channel c goes to row[c], or to c.
template <typename T>
DGM_APART void read_strip(
    const Images<const T>& images, const Runs& runs, int64_t channels, const int64_t* row,
    float* strip) {
  if (runs.count < kStrip) std::fill_n(strip, channels * kPitch, 0.0f);

  for (int r = 0; r < runs.size; ++r) {
    const auto& run = runs.run[r];
    const T* pixel = first_pixel(images, run);
    const int64_t stride = images.pixel_stride;
    int whole = 0;
    if (images.channel_stride == 1 && stride != 1) {
      for (; whole + kLanes <= run.count; whole += kLanes) {
        read_across(pixel + whole * stride, stride, channels, row, strip + run.place + whole);
      }
    }

    for (int64_t c = 0; c < channels; ++c) {
      const T* from = pixel + c * images.channel_stride;
      float* to = strip + (row ? row[c] : c) * kPitch + run.place;
      int i = whole;
      for (; stride == 1 && i + kLanes <= run.count; i += kLanes) store(to + i, load(from + i));
      for (; i < run.count; ++i) to[i] = static_cast<float>(from[i * stride]);
    }
  }
}

// Writes a strip, row[c] or c to channel c.
template <typename T>
DGM_APART void write_strip(
    const float* strip, const Images<T>& images, const Runs& runs, int64_t channels,
    const int64_t* row) {
  for (int r = 0; r < runs.size; ++r) {
    const auto& run = runs.run[r];
    T* pixel = first_pixel(images, run);
    const int64_t stride = images.pixel_stride;
    int whole = 0;
    if (images.channel_stride == 1 && stride != 1) {
      for (; whole + kLanes <= run.count; whole += kLanes) {
        write_across(strip + run.place + whole, pixel + whole * stride, stride, channels, row);
      }
    }

    for (int64_t c = 0; c < channels; ++c) {
      const float* from = strip + (row ? row[c] : c) * kPitch + run.place;
      T* to = pixel + c * images.channel_stride;
      int i = whole;
      for (; stride == 1 && i + kLanes <= run.count; i += kLanes) store(to + i, load(from + i));
      for (; i < run.count; ++i) to[i * stride] = static_cast<T>(from[i]);
    }
  }
}

// Calls f(first row, rows) with blocks of kRows rows and, of what is left over, of 8, 4, 2 and 1,
// whose number is a constant.
template <typename F>
DGM_INLINE void for_each_block(int64_t rows, const F& f) {
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) f(row, std::integral_constant<int, kRows>{});
  const auto left_over = [&](auto constant) {
    if (rows - row < constant) return;
    f(row, constant);
    row += constant;
  };
  if constexpr (kRows > 8) left_over(std::integral_constant<int, 8>{});
  left_over(std::integral_constant<int, 4>{});
  left_over(std::integral_constant<int, 2>{});
  left_over(std::integral_constant<int, 1>{});
}

// A matrix as the products read it: the rows of a block side by side, [block][column][row].
class Packed {
 public:
  // entry(row, column) gives it.
  template <typename Entry>
  Packed(int64_t size, const Entry& entry) : values_(size * size) {
    float* place = values_.data();
    for_each_block(size, [&](int64_t row0, int64_t rows) {
      for (int64_t column = 0; column < size; ++column) {
        for (int64_t m = 0; m < rows; ++m) *place++ = entry(row0 + m, column);
      }
    });
  }

  const float* block(int64_t row0, int64_t size) { return values_.data() + row0 * size; }

 private:
  Buffer values_;
};

// sum[m] += or -= sum over k < depth of a[k][m] in[k], rows of `in` apart by `step`.
template <int R, bool subtract, typename T>
DGM_INLINE void multiply_rows(
    const float* a, const T* in, int64_t step, int64_t depth, Vec (&sum)[R][2]) {
  for (int64_t k = 0; k < depth; ++k, in += step) {
    const Vec right[2] = {load(in), load(in + kLanes)};
#pragma GCC unroll 12
    for (int m = 0; m < R; ++m) {
      const Vec left = a[k * R + m] - Vec{};
      for (int v = 0; v < 2; ++v) {
        if constexpr (subtract) {
          sum[m][v] -= left * right[v];
        } else {
          sum[m][v] += left * right[v];
        }
      }
    }
  }
}

// out = a in + bias for kWidth pixels, rows apart by the steps; `bias` may be null.
template <typename In, typename Out>
DGM_APART void multiply_pixels(
    Packed& a, const float* bias, int64_t channels, const In* in, int64_t in_step, Out* out,
    int64_t out_step) {
  for_each_block(channels, [&](int64_t row0, auto constant) {
    constexpr int R = decltype(constant)::value;
    Vec sum[R][2];
#pragma GCC unroll 12
    for (int m = 0; m < R; ++m) {
      sum[m][0] = sum[m][1] = broadcast(bias != nullptr ? bias[row0 + m] : 0.0f);
    }
    multiply_rows<R, false>(a.block(row0, channels), in, in_step, channels, sum);
#pragma GCC unroll 12
    for (int m = 0; m < R; ++m) {
      for (int v = 0; v < 2; ++v) store(out + (row0 + m) * out_step + v * kLanes, sum[m][v]);
    }
  });
}

// Solves T x = b for kWidth pixels in place, by substitution. T is lower triangular; row i of the
// pixels is pixels[i * step], so that a negative step solves with an upper triangle read from its
// end. `divisors` are the reciprocals of T's diagonal.
DGM_APART void solve_pixels(
    Packed& a, const float* divisors, int64_t channels, float* pixels, int64_t step) {
  for_each_block(channels, [&](int64_t row0, auto constant) {
    constexpr int R = decltype(constant)::value;
    const float* block = a.block(row0, channels);
    Vec x[R][2];
#pragma GCC unroll 12
    for (int m = 0; m < R; ++m) {
      for (int v = 0; v < 2; ++v) x[m][v] = load(pixels + (row0 + m) * step + v * kLanes);
    }
    multiply_rows<R, true>(block, pixels, step, row0, x);

#pragma GCC unroll 12
    for (int m = 0; m < R; ++m) {
      for (int v = 0; v < 2; ++v) {
        x[m][v] *= divisors[row0 + m];
        store(pixels + (row0 + m) * step + v * kLanes, x[m][v]);
      }
#pragma GCC unroll 12
      for (int l = m + 1; l < R; ++l) {
        const Vec left = block[(row0 + m) * R + l] - Vec{};
        for (int v = 0; v < 2; ++v) x[l][v] -= left * x[m][v];
      }
    }
  });
}

}  // namespace dgm::DGM_ISA
