// Add noise, forward and backward; compiled once per instruction set, so without a guard.

#include "common/lines.h"

namespace dgm::DGM_ISA {

namespace noising {

constexpr int64_t kPiece = 64 * kLine;  // elements a thread takes at a time

// Writes one line of x_t and of the target. The target's formula is chosen once a line.
DGM_INLINE void noise_line_of_x0(
    float alpha, float sigma, Target target, int64_t count, const float* x0, const float* noise,
    float* x_t, float* made) {
  const auto each = [&](auto formula) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const Vec x = load(x0 + i), eps = load(noise + i);
      store(x_t + i, alpha * x + sigma * eps);
      formula(i, x, eps);
    }
  };

  switch (target) {
    case Target::noise:
      return each([&](int64_t i, Vec, Vec eps) { store(made + i, eps); });
    case Target::velocity:
      return each([&](int64_t i, Vec x, Vec eps) { store(made + i, alpha * eps - sigma * x); });
    case Target::x0:
      return each([&](int64_t i, Vec x, Vec) { store(made + i, x); });
    default:
      return each([](int64_t, Vec, Vec) {});
  }
}

static void forward(const diffusion_noise::Forward& f) {
  const PhiloxKey key(f.noise.seed, f.noise.stream);
  const int64_t work = f.noise.given ? 2 : 10;

  for_each_sample(
      f.samples, f.elements, kPiece, work, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        const int64_t step = f.t.at(s);
        const float alpha = f.alpha.at(step), sigma = f.sigma.at(step);
        alignas(64) float x0_line[kLine], eps_line[kLine], x_t_line[kLine], made_line[kLine];

        for (int64_t i = begin; i < end; i += kLine) {
          const int64_t count = std::min<int64_t>(kLine, end - i);
          const float* x0 = read_line(f.x0, s, i, count, x0_line);
          const float* eps = noise_line(f.noise, key, s, i, count, eps_line);
          float* x_t = line_to_write(f.x_t, s, i, count, x_t_line);
          float* made = f.made ? line_to_write(f.made, s, i, count, made_line) : nullptr;
          noise_line_of_x0(alpha, sigma, f.target, count, x0, eps, x_t, made);
          write_line(f.x_t, s, i, count, x_t_line);
          if (f.made) write_line(f.made, s, i, count, made_line);
        }
        streams_are_done();
        return 0.0f;
      });
}

static void backward(const diffusion_noise::Backward& b) {
  // A target of noise holds nothing of x0.
  const bool through_target = b.grad_target && b.target != Target::noise;

  for_each_sample(
      b.samples, b.elements, kPiece, 2, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        const int64_t step = b.t.at(s);
        const float alpha = b.alpha.at(step);
        const float scale = b.target == Target::velocity ? -b.sigma.at(step) : 1.0;
        alignas(64) float x_t_line[kLine], target_line[kLine], x0_line[kLine];

        for (int64_t i = begin; i < end; i += kLine) {
          const int64_t count = std::min<int64_t>(kLine, end - i);
          float* out = line_to_write(b.grad_x0, s, i, count, x0_line);
          const float* g = b.grad_x_t ? read_line(b.grad_x_t, s, i, count, x_t_line) : nullptr;
          const float* h =
              through_target ? read_line(b.grad_target, s, i, count, target_line) : nullptr;
          for (int64_t j = 0; j < count; j += kLanes) {
            Vec sum = g != nullptr ? alpha * load(g + j) : Vec{};
            if (h != nullptr) sum += scale * load(h + j);
            store(out + j, sum);
          }
          write_line(b.grad_x0, s, i, count, x0_line);
        }
        streams_are_done();
        return 0.0f;
      });
}

}  // namespace noising

}  // namespace dgm::DGM_ISA
