// A layer of WaveNet and its gradients; compiled once per instruction set, so without a guard.

#include "common/convolve.h"
#include "common/tanh_gate.h"

namespace dgm::DGM_ISA {

using dgm::wavenet_layer::Backward;
using dgm::wavenet_layer::Forward;
using dgm::wavenet_layer::Shape;

// The taps of a kernel; one whose every product is with what lies before x is none.
static std::vector<Tap> taps_of(const Shape& shape) {
  std::vector<Tap> taps;
  for (int64_t j = 0; j < shape.kernel; ++j) {
    const int64_t back = (shape.kernel - 1 - j) * shape.dilation;
    if (back < shape.length) taps.push_back({-back, 0, j, false});
  }
  return taps;
}

static const std::vector<Tap> kHere = {{0, 0, 0, false}};

// h = conv(x) + condition; z = tanh(h_a) sigmoid(h_b); y = x + W z + b, a block at a time.
template <typename T>
static void forward(const Forward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = shape.grid();
  const OutputRows rows{2 * shape.gated, true};
  Left conv(rows.count(), shape.channels, taps_of(shape));
  pack_left(conv, [&](int64_t row, const Tap& tap, int64_t k) {
    const int64_t o = rows.channel(row);
    if (o < 0) return 0.0f;
    return static_cast<float>(p.weights.conv[(o * shape.channels + k) * shape.kernel + tap.weight]);
  });
  Left residual(shape.channels, shape.gated, kHere);
  pack_left(residual, [&](int64_t row, const Tap&, int64_t k) {
    return row < shape.channels ? static_cast<float>(p.weights.residual[row * shape.gated + k])
                                : 0.0f;
  });

  const auto start = [&](const Block& block) {
    const auto runs =
        p.condition ? runs_of(grid, p.condition, block.place, block.count) : std::vector<Run>();
    rows.for_each([&](int64_t row, int64_t o) {
      const float bias = p.weights.conv_bias ? static_cast<float>(p.weights.conv_bias[o]) : 0.0f;
      std::fill_n(block.line(row), kSpan, bias);
      add_channel(runs, p.condition, block.sample, o, block.line(row));
    });
  };

  const auto finish = [&](const Block& block) {
    const auto runs = runs_of(grid, p.y, block.place, block.count);
    if (p.kept) {
      rows.for_each([&](int64_t row, int64_t o) {
        write_channel(runs, p.kept, block.sample, o, block.line(row));
      });
    }

    Buffer gates(shape.gated * kSpan), sums(tiles(shape.channels, kRows) * kRows * kSpan);
    rows.for_each([&](int64_t row, int64_t o) {
      if (o >= shape.gated) return;
      float* line = gates.data() + o * kSpan;
      for (int64_t i = 0; i < kSpan; i += kLanes) {
        store(line + i, gate(load(block.line(row) + i), load(block.line(row + kRows / 2) + i)));
      }
      write_channel(runs, p.z, block.sample, o, line);
    });

    const Block out{block.sample, block.place, block.count, sums.data()};
    for (int64_t c = 0; c < shape.channels; ++c) {
      const T* bias = p.weights.residual_bias;
      std::fill_n(out.line(c), kSpan, bias ? static_cast<float>(bias[c]) : 0.0f);
      add_channel(runs, p.x, block.sample, c, out.line(c));
    }
    multiply_lines(residual, gates.data(), out);
    for (int64_t c = 0; c < shape.channels; ++c) {
      write_channel(runs, p.y, block.sample, c, out.line(c));
    }
  };
  convolve(grid, conv, grid, p.x, start, finish);
}

// grad_h: through the gate of grad_z + W^T grad_y.
template <typename T>
static void grad_h_pass(const Backward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = shape.grid();
  Left residual(shape.gated, p.grad_y ? shape.channels : 0, kHere);
  pack_left(residual, [&](int64_t row, const Tap&, int64_t k) {
    return row < shape.gated ? static_cast<float>(p.weights.residual[k * shape.gated + row]) : 0.0f;
  });

  convolve(
      grid, residual, grid, p.grad_y,
      [&](const Block& block) {
        const auto runs = runs_of(grid, p.kept, block.place, block.count);
        std::fill_n(block.sums, tiles(shape.gated, kRows) * kRows * kSpan, 0.0f);
        for (int64_t o = 0; p.grad_z && o < shape.gated; ++o) {
          add_channel(runs, p.grad_z, block.sample, o, block.line(o));
        }
      },
      [&](const Block& block) {
        const auto runs = runs_of(grid, p.kept, block.place, block.count);
        for (int64_t o = 0; o < shape.gated; ++o) {
          float a[kSpan] = {}, b[kSpan] = {};
          add_channel(runs, p.kept, block.sample, o, a);
          add_channel(runs, p.kept, block.sample, shape.gated + o, b);
          for (int64_t i = 0; i < kSpan; i += kLanes) {
            Vec of_a, of_b;
            gate_gradients(load(block.line(o) + i), load(a + i), load(b + i), of_a, of_b);
            store(a + i, of_a);
            store(b + i, of_b);
          }
          write_channel(runs, p.grad_h, block.sample, o, a);
          write_channel(runs, p.grad_h, block.sample, shape.gated + o, b);
        }
      });
}

// grad_x = grad_y + the convolution of grad_h, turned around.
template <typename T>
static void grad_x_pass(const Backward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = shape.grid();
  Left left(shape.channels, 2 * shape.gated, turned(taps_of(shape)));
  pack_left(left, [&](int64_t row, const Tap& tap, int64_t k) {
    if (row >= shape.channels) return 0.0f;
    const int64_t place = (k * shape.channels + row) * shape.kernel + tap.weight;
    return static_cast<float>(p.weights.conv[place]);
  });

  convolve(
      grid, left, grid, as_read(p.grad_h),
      [&](const Block& block) {
        std::fill_n(block.sums, tiles(shape.channels, kRows) * kRows * kSpan, 0.0f);
        if (!p.grad_y) return;
        const auto runs = runs_of(grid, p.grad_y, block.place, block.count);
        for (int64_t c = 0; c < shape.channels; ++c) {
          add_channel(runs, p.grad_y, block.sample, c, block.line(c));
        }
      },
      [&](const Block& block) {
        const auto runs = runs_of(grid, p.grad_x, block.place, block.count);
        for (int64_t c = 0; c < shape.channels; ++c) {
          write_channel(runs, p.grad_x, block.sample, c, block.line(c));
        }
      });
}

// The gradients of a weight (out, in, kernel) and its bias, each where it is asked for.
template <typename T>
static void grad_weight_pass(
    const Grid& grid, const Images<const T>& x, const Images<const T>& grad, int64_t in,
    int64_t out, int64_t kernel, const std::vector<Tap>& taps, T* grad_weight, T* grad_bias) {
  if (!grad_weight && !grad_bias) return;
  WeightSums sums(grid, grid, in, out, grad_weight ? taps : std::vector<Tap>());
  sums.add(x, grad);
  for (int64_t o = 0; grad_bias && o < out; ++o) grad_bias[o] = static_cast<T>(sums.bias(o));
  if (grad_weight) sums.write(taps, kernel, grad_weight);
}

template <typename T>
static void backward(const Backward<T>& p) {
  const Shape& shape = p.shape;
  grad_h_pass(p);
  if (p.grad_x) grad_x_pass(p);
  grad_weight_pass(
      shape.grid(), p.x, as_read(p.grad_h), shape.channels, 2 * shape.gated, shape.kernel,
      taps_of(shape), p.grad_conv, p.grad_conv_bias);
  if (p.grad_y) {
    grad_weight_pass(
        shape.grid(), p.z, p.grad_y, shape.gated, shape.channels, 1, kHere, p.grad_residual,
        p.grad_residual_bias);
  }
}

}  // namespace dgm::DGM_ISA
