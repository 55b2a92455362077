// Take a sampling step, forward and backward; compiled once per instruction set, so without a
// guard.

#include "common/lines.h"

namespace dgm::DGM_ISA {

namespace stepping {

using diffusion_step::Backward;
using diffusion_step::Inputs;
using diffusion_step::Weights;

constexpr int64_t kPiece = 64 * kLine;  // elements a thread takes at a time

// Returns a line of the prediction, guided where there is an unconditional one.
DGM_INLINE const float* prediction_line(
    const Inputs& in, int64_t s, int64_t begin, int64_t count, float (&line)[kLine],
    float (&other)[kLine]) {
  const float* p = read_line(in.prediction, s, begin, count, line);
  if (!in.unconditional) return p;

  const float* q = read_line(in.unconditional, s, begin, count, other);
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vec plain = load(q + j);
    store(line + j, plain + in.guidance * (load(p + j) - plain));
  }
  return line;
}

static void forward(const Inputs& in, const Rows<char>& x_s) {
  const PhiloxKey key(in.noise.seed, in.noise.stream);
  const int64_t work = in.draws() && !in.noise.given ? 12 : 3;
  const bool clips = in.clips();

  for_each_sample(
      in.samples, in.elements, kPiece, work, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        const Weights w = in.weights_of(s);
        alignas(64) float x_line[kLine], p_line[kLine], other_line[kLine], z_line[kLine];
        alignas(64) float out_line[kLine];

        for (int64_t i = begin; i < end; i += kLine) {
          const int64_t count = std::min<int64_t>(kLine, end - i);
          const float* x = read_line(in.x_t, s, i, count, x_line);
          const float* p = prediction_line(in, s, i, count, p_line, other_line);
          float* out = line_to_write(x_s, s, i, count, out_line);

          const auto all = [&](auto rest) {
            for (int64_t j = 0; j < count; j += kLanes) {
              const Vec x_t = load(x + j), predicted = load(p + j);
              Vec sum = w.a * x_t + w.b * predicted;
              if (clips) {
                const Vec x0 = at_least(w.u * x_t + w.v * predicted, broadcast(-in.clip));
                sum += w.c * at_most(x0, broadcast(in.clip));
              }
              store(out + j, sum + rest(j));
            }
          };
          // On the way to x0, and without eta, there is no noise to draw.
          if (w.std != 0) {
            const float* z = noise_line(in.noise, key, s, i, count, z_line);
            all([&](int64_t j) { return w.std * load(z + j); });
          } else {
            all([](int64_t) { return Vec{}; });
          }
          write_line(x_s, s, i, count, out_line);
        }
        streams_are_done();
        return 0.0f;
      });
}

static void backward(const Backward& b) {
  const Inputs& in = b.in;
  const bool clips = in.clips();
  const Vec limit = broadcast(in.clip);

  for_each_sample(
      in.samples, in.elements, kPiece, 4, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        const Weights w = in.weights_of(s);
        alignas(64) float g_line[kLine], x_line[kLine], p_line[kLine], other_line[kLine];
        alignas(64) float lines[3][kLine];

        for (int64_t i = begin; i < end; i += kLine) {
          const int64_t count = std::min<int64_t>(kLine, end - i);
          const float* g = read_line(b.grad_x_s, s, i, count, g_line);
          const float *x = nullptr, *p = nullptr;
          if (clips) {
            x = read_line(in.x_t, s, i, count, x_line);
            p = prediction_line(in, s, i, count, p_line, other_line);
          }
          const Rows<char> wanted[3] = {b.grad_x_t, b.grad_prediction, b.grad_unconditional};
          float* to[3];
          for (int k = 0; k < 3; ++k) {
            to[k] = wanted[k] ? line_to_write(wanted[k], s, i, count, lines[k]) : lines[k];
          }

          for (int64_t j = 0; j < count; j += kLanes) {
            const Vec grad = load(g + j);
            Vec of_x = w.a * grad, of_p = w.b * grad;
            if (clips) {
              // A clipped x0 depends on nothing.
              const Vec x0 = w.u * load(x + j) + w.v * load(p + j);
              const Vec of_x0 = absolute(x0) <= limit ? w.c * grad : Vec{};
              of_x += w.u * of_x0;
              of_p += w.v * of_x0;
            }
            store(to[0] + j, of_x);
            store(to[1] + j, in.guidance * of_p);
            store(to[2] + j, (1.0f - in.guidance) * of_p);
          }
          for (int k = 0; k < 3; ++k) {
            if (wanted[k]) write_line(wanted[k], s, i, count, lines[k]);
          }
        }
        streams_are_done();
        return 0.0f;
      });
}

}  // namespace stepping

}  // namespace dgm::DGM_ISA
