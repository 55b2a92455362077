// Causal convolutions and their gradients; compiled once per instruction set, so without a guard.

#include "common/convolve.h"

namespace dgm::DGM_ISA {

using dgm::causal_conv1d::Backward;
using dgm::causal_conv1d::Forward;
using dgm::causal_conv1d::Shape;

// The taps of a kernel; one whose every product is with what lies before x is none.
static std::vector<Tap> taps_of(const Shape& shape) {
  std::vector<Tap> taps;
  for (int64_t j = 0; j < shape.kernel; ++j) {
    if (shape.shift(j) > -shape.out_length()) taps.push_back({shape.shift(j), 0, j, false});
  }
  return taps;
}

// Weights of outputs for inputs or, of the sum turned around, of inputs for outputs.
template <typename T>
static Left pack_weight(const Shape& shape, const T* weight, bool around) {
  const std::vector<Tap> taps = taps_of(shape);
  Left left(
      around ? shape.in : shape.out, around ? shape.out : shape.in, around ? turned(taps) : taps);
  pack_left(left, [&](int64_t row, const Tap& tap, int64_t k) {
    if (row >= left.rows) return 0.0f;
    const int64_t o = around ? k : row, c = around ? row : k;
    return static_cast<float>(weight[(o * shape.in + c) * shape.kernel + tap.weight]);
  });
  return left;
}

template <typename T>
static void forward(const Forward<T>& p) {
  const Grid grid = grid_of(p.shape, p.shape.out_length());
  Left left = pack_weight(p.shape, p.weight, false);
  convolve(
      grid, left, grid_of(p.shape, p.shape.length), p.x,
      [&](const Block& block) {
        for (int64_t o = 0; o < p.shape.out; ++o) {
          std::fill_n(block.line(o), kSpan, p.bias ? static_cast<float>(p.bias[o]) : 0.0f);
        }
      },
      [&](const Block& block) {
        const auto runs = runs_of(grid, p.y, block.place, block.count);
        for (int64_t o = 0; o < p.shape.out; ++o) {
          write_channel(runs, p.y, block.sample, o, block.line(o));
        }
      });
}

template <typename T>
static void grad_x_pass(const Backward<T>& p) {
  const Grid grid = grid_of(p.shape, p.shape.length);
  Left left = pack_weight(p.shape, p.weight, true);
  convolve(
      grid, left, grid_of(p.shape, p.shape.out_length()), p.grad,
      [&](const Block& block) {
        std::fill_n(block.sums, tiles(p.shape.in, kRows) * kRows * kSpan, 0.0f);
      },
      [&](const Block& block) {
        const auto runs = runs_of(grid, p.grad_x, block.place, block.count);
        for (int64_t c = 0; c < p.shape.in; ++c) {
          write_channel(runs, p.grad_x, block.sample, c, block.line(c));
        }
      });
}

template <typename T>
static void grad_weight_pass(const Backward<T>& p) {
  const auto& [samples, in, out, kernel, length, dilation, lead] = p.shape;
  const std::vector<Tap> taps = p.grad_weight ? taps_of(p.shape) : std::vector<Tap>();
  WeightSums sums(grid_of(p.shape, p.shape.out_length()), grid_of(p.shape, length), in, out, taps);
  sums.add(p.x, p.grad);

  for (int64_t o = 0; p.grad_bias && o < out; ++o) {
    p.grad_bias[o] = static_cast<T>(sums.bias(o));
  }
  if (p.grad_weight) sums.write(taps, kernel, p.grad_weight);
}

template <typename T>
static void backward(const Backward<T>& p) {
  if (p.grad_x) grad_x_pass(p);
  if (p.grad_weight || p.grad_bias) grad_weight_pass(p);
}

// Depthwise: each channel has a kernel of its own, and all of it is memory's work. A line of y is
// summed in the first cache, one element of the kernel after another.
constexpr int64_t kLineLength = 2048;

// line[i] += w x[channel, begin + i] where that is within x.
template <typename T>
DGM_INLINE void add_shifted(
    const Images<const T>& x, int64_t sample, int64_t channel, int64_t length, int64_t begin,
    int64_t count, float w, float* line) {
  const int64_t first = std::max<int64_t>(0, -begin), last = std::min(count, length - begin);
  if (last <= first) return;
  const T* p = x.at(sample, channel, begin + first, 0);
  if (x.row == 1) {
    for_each_vector(last - first, [&](int64_t i, int64_t n) {
      const Vec value = n == kLanes ? load(p + i) : load(p + i, n);
      store(line + first + i, load(line + first + i, n) + w * value, n);
    });
  } else {
    for (int64_t i = 0; i < last - first; ++i) {
      line[first + i] += w * static_cast<float>(p[i * x.row]);
    }
  }
}

// Calls f(sample, channel, first place, places, line) with every line of sums over the kernel of
// weight[channel][j] x[channel, place + sign shift(j)].
template <typename T, typename F>
static void sum_lines(
    const Shape& shape, const Images<const T>& x, int64_t length, const T* weight, const T* bias,
    int64_t sign, int64_t out_length, const F& f) {
  const int64_t lines = tiles(out_length, kLineLength);
  const int64_t work = shape.samples * shape.in * out_length * shape.kernel;
  run_tasks(shape.samples * shape.in * lines, work, [&](int64_t task) {
    const int64_t begin = task % lines * kLineLength, row = task / lines;
    const int64_t sample = row / shape.in, channel = row % shape.in;
    const int64_t count = std::min(kLineLength, out_length - begin);

    alignas(64) float line[kLineLength];
    std::fill_n(line, count, bias ? static_cast<float>(bias[channel]) : 0.0f);
    for (int64_t j = 0; j < shape.kernel; ++j) {
      const float w = static_cast<float>(weight[channel * shape.kernel + j]);
      add_shifted(x, sample, channel, length, begin + sign * shape.shift(j), count, w, line);
    }
    f(sample, channel, begin, count, line);
    streams_are_done();
  });
}

template <typename T>
static void depthwise_forward(const Forward<T>& p) {
  sum_lines(
      p.shape, p.x, p.shape.length, p.weight, p.bias, 1, p.shape.out_length(),
      [&](int64_t sample, int64_t channel, int64_t begin, int64_t count, const float* line) {
        write_run(p.y.at(sample, channel, begin, 0), p.y.row, line, count, p.y.streams);
      });
}

// The sum over i < count of a[i] x[channel, begin + i], where that is within x.
template <typename T>
DGM_INLINE float dot_shifted(
    const Images<const T>& x, int64_t sample, int64_t channel, int64_t length, int64_t begin,
    int64_t count, const float* a) {
  const int64_t first = std::max<int64_t>(0, -begin), last = std::min(count, length - begin);
  if (last <= first) return 0.0f;
  const T* p = x.at(sample, channel, begin + first, 0);
  Vec total{};
  if (x.row == 1) {
    for_each_vector(last - first, [&](int64_t i, int64_t n) {
      const Vec value = n == kLanes ? load(p + i) : load(p + i, n);
      total += n == kLanes ? load(a + first + i) * value
                           : dgm::DGM_ISA::first(load(a + first + i, n) * value, n);
    });
    return sum(total);
  }
  float rest = 0.0f;
  for (int64_t i = 0; i < last - first; ++i) {
    rest += a[first + i] * static_cast<float>(p[i * x.row]);
  }
  return rest;
}

template <typename T>
static void depthwise_backward(const Backward<T>& p) {
  const Shape& shape = p.shape;
  if (p.grad_x) {
    sum_lines<T>(
        shape, p.grad, shape.out_length(), p.weight, nullptr, -1, shape.length,
        [&](int64_t sample, int64_t channel, int64_t begin, int64_t count, const float* line) {
          write_run(
              p.grad_x.at(sample, channel, begin, 0), p.grad_x.row, line, count, p.grad_x.streams);
        });
  }
  if (!p.grad_weight && !p.grad_bias) return;

  const int64_t length = shape.out_length(), work = shape.samples * shape.in * length;
  run_tasks(shape.in, work * (shape.kernel + 1), [&](int64_t channel) {
    // Sums of lines, in float64: they are few.
    std::vector<double> sums(shape.kernel + 1, 0.0);
    for (int64_t i = 0; i < shape.samples * tiles(length, kLineLength); ++i) {
      const int64_t sample = i / tiles(length, kLineLength);
      const int64_t begin = i % tiles(length, kLineLength) * kLineLength;
      const int64_t count = std::min(kLineLength, length - begin);
      alignas(64) float grad[kLineLength];
      read_run(p.grad.at(sample, channel, begin, 0), p.grad.row, count, grad);
      for (int64_t j = 0; p.grad_weight && j < shape.kernel; ++j) {
        sums[j] +=
            dot_shifted(p.x, sample, channel, shape.length, begin + shape.shift(j), count, grad);
      }
      Vec total{};
      for_each_vector(
          count, [&](int64_t k, int64_t n) { total += dgm::DGM_ISA::first(load(grad + k, n), n); });
      sums[shape.kernel] += sum(total);
    }
    for (int64_t j = 0; p.grad_weight && j < shape.kernel; ++j) {
      p.grad_weight[channel * shape.kernel + j] = static_cast<T>(static_cast<float>(sums[j]));
    }
    if (p.grad_bias) p.grad_bias[channel] = static_cast<T>(static_cast<float>(sums[shape.kernel]));
  });
}

}  // namespace dgm::DGM_ISA
