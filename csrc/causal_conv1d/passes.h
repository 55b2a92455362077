// Causal convolutions and their gradients; compiled once per instruction set, so without a guard.

#include "common/convolve.h"

namespace dgm::DGM_ISA {

using dgm::causal_conv1d::Backward;
using dgm::causal_conv1d::Forward;
using dgm::causal_conv1d::Shape;

static std::vector<Tap> taps_of(const Shape& shape) {
  return causal_taps(shape.kernel, shape.dilation, shape.lead, shape.out_length());
}

template <typename T>
static Weight<T> weight_of(const Shape& shape, const T* weight) {
  return {weight, shape.out, shape.in, shape.kernel};
}

template <typename T>
static void forward(const Forward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = signal_grid(shape.samples, shape.out_length());
  const OutputRows rows{shape.out, false};
  convolve(
      grid, pack_outputs(weight_of(shape, p.weight), rows, taps_of(shape)),
      signal_grid(shape.samples, shape.length), p.x,
      [&](const Block& block) { start_at(p.bias, rows, block); },
      [&](const Block& block) { write_images(grid, p.y, rows, block); });
}

template <typename T>
static void backward(const Backward<T>& p) {
  const Shape& shape = p.shape;
  const Weight<T> weight = weight_of(shape, p.weight);
  const Grid of_x = signal_grid(shape.samples, shape.length);
  const Grid of_y = signal_grid(shape.samples, shape.out_length());
  if (p.grad_x) {
    const OutputRows rows{shape.in, false};
    convolve(
        of_x, pack_inputs(weight, taps_of(shape)), of_y, p.grad,
        [&](const Block& block) { start_at<T>(nullptr, rows, block); },
        [&](const Block& block) { write_images(of_x, p.grad_x, rows, block); });
  }
  sum_weight_gradients(of_y, of_x, p.x, p.grad, weight, taps_of(shape), p.grad_weight, p.grad_bias);
}

// Depthwise: each channel has a kernel of its own, and all of it is memory's work. A line of y is
// summed in the first cache, one element of the kernel after another.
constexpr int64_t kLineLength = 2048;

// line[i] += w x[channel, begin + i] where that is within x.
template <typename T>
DGM_INLINE void add_shifted(
    const Images<const T>& x, int64_t sample, int64_t channel, int64_t length, int64_t begin,
    int64_t count, float w, float* line) {
  const int64_t low = std::max<int64_t>(0, -begin), high = std::min(count, length - begin);
  if (high <= low) return;
  const T* p = x.at(sample, channel, begin + low, 0);
  line += low;
  if (x.row == 1) {
    for_each_vector(high - low, [&](int64_t i, int64_t n) {
      store(line + i, load(line + i, n) + w * load(p + i, n), n);
    });
  } else {
    for (int64_t i = 0; i < high - low; ++i) line[i] += w * static_cast<float>(p[i * x.row]);
  }
}

// Calls f(sample, channel, first place, places, line) with every line of sums over taps of the
// tap's weight[channel] and x[channel, place + sign shift].
template <typename T, typename F>
static void sum_lines(
    const Shape& shape, const Images<const T>& x, int64_t length, const T* weight, const T* bias,
    int64_t sign, int64_t out_length, const F& f) {
  const std::vector<Tap> taps = taps_of(shape);
  const int64_t lines = tiles(out_length, kLineLength);
  const int64_t work = shape.samples * shape.in * out_length * shape.kernel;
  run_tasks(shape.samples * shape.in * lines, work, [&](int64_t task) {
    const int64_t begin = task % lines * kLineLength, row = task / lines;
    const int64_t sample = row / shape.in, channel = row % shape.in;
    const int64_t count = std::min(kLineLength, out_length - begin);

    alignas(64) float line[kLineLength];
    std::fill_n(line, count, bias ? static_cast<float>(bias[channel]) : 0.0f);
    for (const Tap& tap : taps) {
      const float w = static_cast<float>(weight[channel * shape.kernel + tap.weight]);
      add_shifted(x, sample, channel, length, begin + sign * tap.row, count, w, line);
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
  const int64_t low = std::max<int64_t>(0, -begin), high = std::min(count, length - begin);
  if (high <= low) return 0.0f;
  const T* p = x.at(sample, channel, begin + low, 0);
  a += low;
  if (x.row == 1) {
    Vec total{};
    for_each_vector(high - low, [&](int64_t i, int64_t n) {
      total += first(load(a + i, n) * load(p + i, n), n);
    });
    return sum(total);
  }
  float total = 0.0f;
  for (int64_t i = 0; i < high - low; ++i) total += a[i] * static_cast<float>(p[i * x.row]);
  return total;
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

  const std::vector<Tap> taps = p.grad_weight ? taps_of(shape) : std::vector<Tap>();
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
      for (const Tap& tap : taps) {
        sums[tap.weight] +=
            dot_shifted(p.x, sample, channel, shape.length, begin + tap.row, count, grad);
      }
      Vec total{};
      for_each_vector(count, [&](int64_t k, int64_t n) { total += first(load(grad + k, n), n); });
      sums[shape.kernel] += sum(total);
    }
    for (int64_t j = 0; p.grad_weight && j < shape.kernel; ++j) {
      p.grad_weight[channel * shape.kernel + j] = static_cast<T>(static_cast<float>(sums[j]));
    }
    if (p.grad_bias) p.grad_bias[channel] = static_cast<T>(static_cast<float>(sums[shape.kernel]));
  });
}

}  // namespace dgm::DGM_ISA
