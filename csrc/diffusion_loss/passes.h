// Measure a prediction, forward and backward; compiled once per instruction set, so without a
// guard.

#include "common/lines.h"

namespace dgm::DGM_ISA {

namespace measuring {

using diffusion_loss::Backward;
using diffusion_loss::Inputs;

constexpr int64_t kPiece = 64 * kLine;  // elements a thread takes at a time

DGM_INLINE int64_t work_of(const Inputs& in) {
  return in.target == Target::x0 || in.noise.given ? 2 : 10;
}

// Calls line(begin, count, error) for every line of a piece, where error(j) is prediction - target
// of the vector at begin + j. The target's formula is chosen once a line.
template <typename Line>
DGM_INLINE void for_each_line(
    const Inputs& in, const PhiloxKey& key, int64_t s, int64_t begin, int64_t end,
    const Line& line) {
  const int64_t step = in.t.at(s);
  const float alpha = in.alpha.at(step), sigma = in.sigma.at(step);
  alignas(64) float prediction_line[kLine], x0_line[kLine], eps_line[kLine];

  for (int64_t i = begin; i < end; i += kLine) {
    const int64_t count = std::min<int64_t>(kLine, end - i);
    const float* p = read_line(in.prediction, s, i, count, prediction_line);
    const float *x0 = nullptr, *eps = nullptr;
    if (in.target != Target::noise) x0 = read_line(in.x0, s, i, count, x0_line);
    if (in.target != Target::x0) eps = noise_line(in.noise, key, s, i, count, eps_line);

    if (in.target == Target::noise) {
      line(i, count, [&](int64_t j) { return load(p + j) - load(eps + j); });
    } else if (in.target == Target::x0) {
      line(i, count, [&](int64_t j) { return load(p + j) - load(x0 + j); });
    } else {
      line(i, count, [&](int64_t j) {
        return load(p + j) - (alpha * load(eps + j) - sigma * load(x0 + j));
      });
    }
  }
}

static void forward(const Inputs& in, float* loss) {
  const PhiloxKey key(in.noise.seed, in.noise.stream);

  for_each_sample(
      in.samples, in.elements, kPiece, work_of(in), loss,
      [&](int64_t s, int64_t begin, int64_t end) {
        Vec total{};
        for_each_line(in, key, s, begin, end, [&](int64_t, int64_t count, const auto& error) {
          for (int64_t j = 0; j < count; j += kLanes) {
            const Vec e = error(j);
            total += first(e * e, count - j);
          }
        });
        return sum(total);
      });

  for (int64_t s = 0; s < in.samples; ++s) {
    loss[s] = in.weight_of(s) * (loss[s] / static_cast<float>(in.elements));
  }
}

static void backward(const Backward& b) {
  const Inputs& in = b.in;
  const PhiloxKey key(in.noise.seed, in.noise.stream);

  for_each_sample(
      in.samples, in.elements, kPiece, work_of(in), nullptr,
      [&](int64_t s, int64_t begin, int64_t end) {
        const float share = 2.0f * b.grad_loss[s * b.grad_loss_step] * in.weight_of(s) /
                            static_cast<float>(in.elements);
        // The derivative of the error by x0.
        const float slope = in.target == Target::x0 ? -1.0 : in.sigma.at(in.t.at(s));
        alignas(64) float prediction_line[kLine], x0_line[kLine];

        for_each_line(in, key, s, begin, end, [&](int64_t i, int64_t count, const auto& error) {
          float *of_prediction = prediction_line, *of_x0 = x0_line;
          if (b.grad_prediction) {
            of_prediction = line_to_write(b.grad_prediction, s, i, count, prediction_line);
          }
          if (b.grad_x0) of_x0 = line_to_write(b.grad_x0, s, i, count, x0_line);

          for (int64_t j = 0; j < count; j += kLanes) {
            const Vec grad = share * error(j);
            store(of_prediction + j, grad);
            store(of_x0 + j, slope * grad);
          }
          if (b.grad_prediction) write_line(b.grad_prediction, s, i, count, prediction_line);
          if (b.grad_x0) write_line(b.grad_x0, s, i, count, x0_line);
        });
        streams_are_done();
        return 0.0f;
      });
}

}  // namespace measuring

}  // namespace dgm::DGM_ISA
