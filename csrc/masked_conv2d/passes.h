// Masked convolutions and their gradients; compiled once per instruction set, so without a guard.

#include "common/convolve.h"
#include "common/tanh_gate.h"

namespace dgm::DGM_ISA {

using dgm::masked_conv2d::Backward;
using dgm::masked_conv2d::Forward;
using dgm::masked_conv2d::Gate;
using dgm::masked_conv2d::Mask;

// The weights of outputs, for inputs k in [0, in).
template <typename T>
static Left pack_outputs(const Mask& mask, const OutputRows& rows, const T* weight) {
  Left left(rows.count(), mask.in, mask.taps);
  pack_left(left, [&](int64_t row, const Tap& tap, int64_t k) {
    const int64_t o = rows.channel(row);
    if (o < 0 || (tap.centre && k >= mask.bound(o))) return 0.0f;
    return static_cast<float>(weight[(o * mask.in + k) * mask.kernel + tap.weight]);
  });
  rows.for_each([&](int64_t row, int64_t o) {
    for (int64_t t = 0; t < left.count(); ++t) {
      if (!left.taps[t].centre) continue;
      auto& range = left.range(row / kRows, t);
      range.end = std::max(row % kRows == 0 ? 0 : range.end, mask.bound(o));
    }
  });
  return left;
}

// The weights of inputs, for outputs k in [0, out).
template <typename T>
static Left pack_inputs(const Mask& mask, const T* weight) {
  Left left(mask.in, mask.out, turned(mask.taps));
  pack_left(left, [&](int64_t c, const Tap& tap, int64_t k) {
    if (c >= mask.in || (tap.centre && c >= mask.bound(k))) return 0.0f;
    return static_cast<float>(weight[(k * mask.in + c) * mask.kernel + tap.weight]);
  });
  for (int64_t tile = 0; tile < tiles(mask.in, kRows); ++tile) {
    for (int64_t t = 0; t < left.count(); ++t) {
      if (!left.taps[t].centre) continue;
      left.range(tile, t).begin = std::min(mask.start(tile * kRows), mask.out);
    }
  }
  return left;
}

// y = x * (W . M) + b + residual, or of that in two halves a and b, tanh(a) sigmoid(b).
template <typename T>
static void forward(const Forward<T>& p) {
  const OutputRows rows{p.mask.out, p.gated};
  Left left = pack_outputs(p.mask, rows, p.weight);

  const auto start = [&](const Block& block) {
    const auto runs =
        p.residual ? runs_of(p.grid, p.residual, block.place, block.count) : std::vector<Run>();
    rows.for_each([&](int64_t row, int64_t o) {
      std::fill_n(block.line(row), kSpan, p.bias ? static_cast<float>(p.bias[o]) : 0.0f);
      add_channel(runs, p.residual, block.sample, o, block.line(row));
    });
  };

  const auto finish = [&](const Block& block) {
    const auto runs = runs_of(p.grid, p.y, block.place, block.count);
    if (p.kept || !p.gated) {
      rows.for_each([&](int64_t row, int64_t o) {
        write_channel(runs, p.gated ? p.kept : p.y, block.sample, o, block.line(row));
      });
    }
    if (!p.gated) return;

    rows.for_each([&](int64_t row, int64_t o) {
      if (o >= p.mask.out / 2) return;
      float* line = block.line(row);
      for (int64_t i = 0; i < kSpan; i += kLanes) {
        const Vec a = load(line + i), b = load(block.line(row + kRows / 2) + i);
        store(line + i, gate(a, b));
      }
      write_channel(runs, p.y, block.sample, o, line);
    });
  };
  convolve(p.grid, left, p.grid, p.x, start, finish);
}

// grad_x = grad * (W . M) turned around.
template <typename T>
static void grad_x_pass(const Backward<T>& p) {
  const int64_t tile_count = tiles(p.mask.in, kRows);
  Left left = pack_inputs(p.mask, p.weight);

  convolve(
      p.grid, left, p.grid, p.grad,
      [&](const Block& block) { std::fill_n(block.sums, tile_count * kRows * kSpan, 0.0f); },
      [&](const Block& block) {
        const auto runs = runs_of(p.grid, p.grad_x, block.place, block.count);
        for (int64_t c = 0; c < p.mask.in; ++c) {
          write_channel(runs, p.grad_x, block.sample, c, block.line(c));
        }
      });
}

template <typename T>
static void grad_weight_pass(const Backward<T>& p) {
  const Mask& mask = p.mask;
  WeightSums sums(
      p.grid, p.grid, mask.in, mask.out, p.grad_weight ? mask.taps : std::vector<Tap>());
  sums.add(p.x, p.grad);

  for (int64_t o = 0; p.grad_bias && o < mask.out; ++o) {
    p.grad_bias[o] = static_cast<T>(sums.bias(o));
  }
  if (!p.grad_weight) return;
  run_tasks(mask.out, mask.out * mask.in * mask.kernel * WeightSums::kParts, [&](int64_t o) {
    T* line = p.grad_weight + o * mask.in * mask.kernel;
    std::fill_n(line, mask.in * mask.kernel, static_cast<T>(0.0f));
    for (std::size_t t = 0; t < mask.taps.size(); ++t) {
      const Tap& tap = mask.taps[t];
      const int64_t end = tap.centre ? mask.bound(o) : mask.in;
      for (int64_t c = 0; c < end; ++c) {
        line[c * mask.kernel + tap.weight] = static_cast<T>(sums.weight(t, c, o));
      }
    }
  });
}

template <typename T>
static void gate_backward(const Gate<T>& p) {
  const int64_t width = p.grid.width, rows = p.grid.samples * p.channels;
  run_tasks(rows, rows * p.grid.height * width * 32, [&](int64_t task) {
    const int64_t s = task / p.channels, c = task % p.channels;
    float grad[kLanes] = {}, a[kLanes] = {}, b[kLanes] = {};
    for (int64_t r = 0; r < p.grid.height; ++r) {
      for (int64_t w = 0; w < width; w += kLanes) {
        const int64_t n = std::min<int64_t>(kLanes, width - w);
        read_run(p.grad_y.at(s, c, r, w), p.grad_y.column, n, grad);
        read_run(p.kept.at(s, c, r, w), p.kept.column, n, a);
        read_run(p.kept.at(s, p.channels + c, r, w), p.kept.column, n, b);
        Vec grad_a, grad_b;
        gate_gradients(load(grad), load(a), load(b), grad_a, grad_b);
        store(a, grad_a);
        store(b, grad_b);
        write_run(p.grad.at(s, c, r, w), p.grad.column, a, n, false);
        write_run(p.grad.at(s, p.channels + c, r, w), p.grad.column, b, n, false);
      }
    }
  });
}

template <typename T>
static void backward(const Backward<T>& p) {
  if (p.grad_x) grad_x_pass(p);
  if (p.grad_weight || p.grad_bias) grad_weight_pass(p);
}

}  // namespace dgm::DGM_ISA
