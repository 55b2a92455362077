// Masked convolutions and their gradients; compiled once per instruction set, so without a guard.

#include "common/convolve.h"

namespace dgm::DGM_ISA {

using dgm::masked_conv2d::Backward;
using dgm::masked_conv2d::Forward;
using dgm::masked_conv2d::Gate;
using dgm::masked_conv2d::Mask;

template <typename T>
static Weight<T> weight_of(const Mask& mask, const T* weight) {
  return {weight, mask.out, mask.in, mask.kernel};
}

// y = x * (W . M) + b + residual, or of that in two halves a and b, tanh(a) sigmoid(b).
template <typename T>
static void forward(const Forward<T>& p) {
  const OutputRows rows{p.mask.out, p.gated};
  const Left left = pack_outputs(weight_of(p.mask, p.weight), rows, p.mask.taps, p.mask);

  convolve(
      p.grid, left, p.grid, p.x,
      [&](const Block& block) {
        start_at(p.bias, rows, block);
        add_images(p.grid, p.residual, rows, block);
      },
      [&](const Block& block) {
        if (!p.gated) return write_images(p.grid, p.y, rows, block);
        if (p.kept) write_images(p.grid, p.kept, rows, block);
        Buffer gated(p.mask.out / 2 * kSpan);
        const Block y = gate_pairs(rows, block, gated.data());
        write_images(p.grid, p.y, OutputRows{p.mask.out / 2, false}, y);
      });
}

template <typename T>
static void backward(const Backward<T>& p) {
  const Weight<T> weight = weight_of(p.mask, p.weight);
  if (p.grad_x) {
    const OutputRows rows{p.mask.in, false};
    convolve(
        p.grid, pack_inputs(weight, p.mask.taps, p.mask), p.grid, p.grad,
        [&](const Block& block) { start_at<T>(nullptr, rows, block); },
        [&](const Block& block) { write_images(p.grid, p.grad_x, rows, block); });
  }
  sum_weight_gradients(
      p.grid, p.grid, p.x, p.grad, weight, p.mask.taps, p.grad_weight, p.grad_bias, p.mask);
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

}  // namespace dgm::DGM_ISA
