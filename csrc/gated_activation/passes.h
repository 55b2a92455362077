// The gate, forward and backward; compiled once per instruction set, so without a guard.

#include "common/lines.h"
#include "common/tanh_gate.h"

namespace dgm::DGM_ISA {

namespace gating {

constexpr int64_t kPiece = 16 * kLine;  // elements a thread takes at a time

static void forward(const gated_activation::Forward& f) {
  for_each_sample(
      f.samples, f.elements, kPiece, 16, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        alignas(64) float a_line[kLine], b_line[kLine], y_line[kLine];
        for (int64_t i = begin; i < end; i += kLine) {
          const int64_t count = std::min<int64_t>(kLine, end - i);
          const float* a = read_line(f.a, s, i, count, a_line);
          const float* b = read_line(f.b, s, i, count, b_line);
          float* y = line_to_write(f.y, s, i, count, y_line);
          for (int64_t j = 0; j < count; j += kLanes) store(y + j, gate(load(a + j), load(b + j)));
          write_line(f.y, s, i, count, y_line);
        }
        streams_are_done();
        return 0.0f;
      });
}

static void backward(const gated_activation::Backward& p) {
  for_each_sample(
      p.samples, p.elements, kPiece, 32, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        alignas(64) float g_line[kLine], a_line[kLine], b_line[kLine];
        alignas(64) float grad_a_line[kLine], grad_b_line[kLine];
        for (int64_t i = begin; i < end; i += kLine) {
          const int64_t count = std::min<int64_t>(kLine, end - i);
          const float* g = read_line(p.grad_y, s, i, count, g_line);
          const float* a = read_line(p.a, s, i, count, a_line);
          const float* b = read_line(p.b, s, i, count, b_line);
          float* grad_a = line_to_write(p.grad_a, s, i, count, grad_a_line);
          float* grad_b = line_to_write(p.grad_b, s, i, count, grad_b_line);
          for (int64_t j = 0; j < count; j += kLanes) {
            Vec of_a, of_b;
            gate_gradients(load(g + j), load(a + j), load(b + j), of_a, of_b);
            store(grad_a + j, of_a);
            store(grad_b + j, of_b);
          }
          write_line(p.grad_a, s, i, count, grad_a_line);
          write_line(p.grad_b, s, i, count, grad_b_line);
        }
        streams_are_done();
        return 0.0f;
      });
}

}  // namespace gating

}  // namespace dgm::DGM_ISA
