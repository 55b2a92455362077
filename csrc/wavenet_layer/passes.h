// A layer of WaveNet and its gradients; compiled once per instruction set, so without a guard.

#include "common/convolve.h"

namespace dgm::DGM_ISA {

using dgm::wavenet_layer::Backward;
using dgm::wavenet_layer::Forward;
using dgm::wavenet_layer::Shape;
using dgm::wavenet_layer::Weights;

static std::vector<Tap> taps_of(const Shape& shape) {
  return causal_taps(shape.kernel, shape.dilation, 0, shape.length);
}

static const std::vector<Tap> kHere = {{0, 0, 0, false}};

template <typename T>
static Weight<T> conv_of(const Shape& shape, const Weights<T>& weights) {
  return {weights.conv, 2 * shape.gated, shape.channels, shape.kernel};
}

template <typename T>
static Weight<T> residual_of(const Shape& shape, const Weights<T>& weights) {
  return {weights.residual, shape.channels, shape.gated, 1};
}

// h = conv(x) + condition; z = tanh(h_a) sigmoid(h_b); y = x + W z + b, a block at a time.
template <typename T>
static void forward(const Forward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = signal_grid(shape.samples, shape.length);
  const OutputRows pairs{2 * shape.gated, true}, of_z{shape.gated, false};
  const OutputRows of_x{shape.channels, false};
  const Left residual = pack_outputs(residual_of(shape, p.weights), of_x, kHere);

  convolve(
      grid, pack_outputs(conv_of(shape, p.weights), pairs, taps_of(shape)), grid, p.x,
      [&](const Block& block) {
        start_at(p.weights.conv_bias, pairs, block);
        add_images(grid, p.condition, pairs, block);
      },
      [&](const Block& block) {
        if (p.kept) write_images(grid, p.kept, pairs, block);
        Buffer gated(shape.gated * kSpan), sums(of_x.count() * kSpan);
        const Block z = gate_pairs(pairs, block, gated.data());
        write_images(grid, p.z, of_z, z);

        const Block y{block.sample, block.place, block.count, sums.data()};
        start_at(p.weights.residual_bias, of_x, y);
        add_images(grid, p.x, of_x, y);
        multiply_lines(residual, z.sums, y);
        write_images(grid, p.y, of_x, y);
      });
}

// The gradient of h, through the gate of grad_z + W^T grad_y.
template <typename T>
static void grad_h_pass(const Backward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = signal_grid(shape.samples, shape.length);
  const OutputRows of_z{shape.gated, false}, of_h{2 * shape.gated, false};
  Weight<T> residual = residual_of(shape, p.weights);
  if (!p.grad_y) residual.out = 0;

  convolve(
      grid, pack_inputs(residual, kHere), grid, p.grad_y,
      [&](const Block& block) {
        start_at<T>(nullptr, of_z, block);
        add_images(grid, p.grad_z, of_z, block);
      },
      [&](const Block& block) {
        Buffer lines(of_h.count() * kSpan);
        const Block h{block.sample, block.place, block.count, lines.data()};
        start_at<T>(nullptr, of_h, h);
        add_images(grid, p.kept, of_h, h);
        for (int64_t o = 0; o < shape.gated; ++o) {
          float *a = h.line(o), *b = h.line(shape.gated + o);
          for (int64_t i = 0; i < kSpan; i += kLanes) {
            Vec of_a, of_b;
            gate_gradients(load(block.line(o) + i), load(a + i), load(b + i), of_a, of_b);
            store(a + i, of_a);
            store(b + i, of_b);
          }
        }
        write_images(grid, p.grad_h, of_h, h);
      });
}

template <typename T>
static void backward(const Backward<T>& p) {
  const Shape& shape = p.shape;
  const Grid grid = signal_grid(shape.samples, shape.length);
  const Weight<T> conv = conv_of(shape, p.weights);
  const Images<const T> grad_h = as_read(p.grad_h);
  grad_h_pass(p);

  if (p.grad_x) {
    // grad_y and the convolution turned around.
    const OutputRows rows{shape.channels, false};
    convolve(
        grid, pack_inputs(conv, taps_of(shape)), grid, grad_h,
        [&](const Block& block) {
          start_at<T>(nullptr, rows, block);
          add_images(grid, p.grad_y, rows, block);
        },
        [&](const Block& block) { write_images(grid, p.grad_x, rows, block); });
  }
  sum_weight_gradients(
      grid, grid, p.x, grad_h, conv, taps_of(shape), p.grad_conv, p.grad_conv_bias);
  if (p.grad_y) {
    sum_weight_gradients(
        grid, grid, p.z, p.grad_y, residual_of(shape, p.weights), kHere, p.grad_residual,
        p.grad_residual_bias);
  }
}

}  // namespace dgm::DGM_ISA
