// The passes over the pixels; compiled once per instruction set, so without a guard.

#include "invertible_1x1/sums.h"

namespace dgm::DGM_ISA {

using dgm::invertible_1x1::Backward;
using dgm::invertible_1x1::Forward;

// A triangle as a lower one in the order of its substitution, with the reciprocals of its diagonal.
// Reversed, row and column i are channels - 1 - i of the matrix given.
struct Triangle {
  int64_t channels;
  bool reversed;
  Packed packed;
  std::vector<float> divisors;

  template <typename Entry>
  Triangle(int64_t channels, bool reversed, const Entry& entry)
      : channels(channels),
        reversed(reversed),
        packed(
            channels,
            [&](int64_t i, int64_t j) {
              return reversed ? entry(channels - 1 - i, channels - 1 - j) : entry(i, j);
            }),
        divisors(channels) {
    for (int64_t i = 0; i < channels; ++i) {
      const int64_t k = reversed ? channels - 1 - i : i;
      divisors[i] = 1.0f / entry(k, k);
    }
  }

  void solve(float* strip) {
    float* first = reversed ? strip + (channels - 1) * kPitch : strip;
    for (int i = 0; i < kStrip; i += kWidth) {
      solve_pixels(packed, divisors.data(), channels, first + i, reversed ? -kPitch : kPitch);
    }
  }
};

// Solves with L, then U; or with the transpose of U, then that of L.
struct Solver {
  Triangle first, second;

  Solver(Matrices& m, bool transposed)
      : first(
            m.channels, false,
            [&](int64_t i, int64_t j) { return transposed ? m.upper[j][i] : m.lower[i][j]; }),
        second(m.channels, true, [&](int64_t i, int64_t j) {
          return transposed ? m.lower[j][i] : m.upper[i][j];
        }) {}

  void solve(float* strip) {
    first.solve(strip);
    second.solve(strip);
  }
};

// Replaces each row v by v / scale - shift; `shifted` or by v / scale.
DGM_INLINE void unscale(Matrices& m, bool shifted, float* strip) {
  for (int64_t c = 0; c < m.channels; ++c) {
    for (int i = 0; i < kStrip; i += kLanes) {
      float* place = strip + c * kPitch + i;
      store(place, load(place) / m.scale[c] - (shifted ? m.shift[c] : 0.0f));
    }
  }
}

// y = a in + bias for a strip `in`; `out` is scratch.
template <typename T>
DGM_INLINE void multiply_scratch(
    Packed& a, const float* bias, const Sizes& sizes, const float* in, const Images<T>& y,
    const Runs& runs, float* out) {
  const int64_t channels = sizes.channels;
  if (in_panels(sizes, y)) {
    for (int r = 0; r < runs.size; ++r) {
      const auto& run = runs.run[r];
      const float* from = in + run.place;
      T* to = first_pixel(y, run);
      for (int i = 0; i < run.count; i += kWidth) {
        multiply_pixels(a, bias, channels, from + i, kPitch, to + i, y.channel_stride);
      }
    }
    return;
  }

  for (int i = 0; i < runs.count; i += kWidth) {
    multiply_pixels(a, bias, channels, in + i, kPitch, out + i, kPitch);
  }
  write_strip(out, y, runs, channels, nullptr);
}

// y = a x + bias for a strip; without scratch where the pixels lie in panels.
template <typename T>
DGM_INLINE void multiply_strip(
    Packed& a, const float* bias, const Sizes& sizes, const Images<const T>& x, const Images<T>& y,
    const Runs& runs, float* in, float* out) {
  const int64_t channels = sizes.channels;
  if (in_panels(sizes, x) && in_panels(sizes, y)) {
    for (int r = 0; r < runs.size; ++r) {
      const T* from = first_pixel(x, runs.run[r]);
      T* to = first_pixel(y, runs.run[r]);
      for (int i = 0; i < runs.run[r].count; i += kWidth) {
        multiply_pixels(a, bias, channels, from + i, x.channel_stride, to + i, y.channel_stride);
      }
    }
    return;
  }

  read_strip(x, runs, channels, nullptr, in);
  multiply_scratch(a, bias, sizes, in, y, runs, out);
}

constexpr int64_t kStripsOfTask = 8;

template <typename T>
static void forward(const Forward<T>& p) {
  const int64_t channels = p.sizes.channels, strips = tiles(p.sizes.columns(), kStrip);
  Matrices m(channels, p.parameters);
  Square folded = m.folded();
  const std::vector<float> bias = m.bias();
  Packed product(p.inverse ? 0 : channels, [&](int64_t i, int64_t j) { return folded[i][j]; });
  std::optional<Solver> solver;
  if (p.inverse) solver.emplace(m, false);

  const int64_t work = p.sizes.columns() * channels * (channels + 8);
  run_tasks(tiles(strips, kStripsOfTask), work, [&](int64_t task) {
    Buffer in(channels * kPitch), out(channels * kPitch);
    const int64_t last = std::min(strips, (task + 1) * kStripsOfTask);
    for (int64_t strip = task * kStripsOfTask; strip < last; ++strip) {
      const Runs runs(p.sizes, strip);
      if (p.inverse) {
        read_strip(p.x, runs, channels, m.permutation, in.data());
        solver->solve(in.data());
        unscale(m, true, in.data());
        write_strip(in.data(), p.y, runs, channels, nullptr);
      } else {
        multiply_strip(product, bias.data(), p.sizes, p.x, p.y, runs, in.data(), out.data());
      }
    }
  });
}

// Strips of x, of the gradient of the result, and of that of x.
struct Scratch {
  Buffer x, grad, grad_x;

  explicit Scratch(int64_t channels)
      : x(channels * kPitch), grad(channels * kPitch), grad_x(channels * kPitch) {}
};

template <typename T>
static void backward(const Backward<T>& p) {
  const int64_t channels = p.sizes.channels, strips = tiles(p.sizes.columns(), kStrip);
  Matrices m(channels, p.parameters);
  Square folded = m.folded();
  Packed product(p.inverse ? 0 : channels, [&](int64_t i, int64_t j) { return folded[j][i]; });
  std::optional<Solver> solver, adjoint;
  if (p.inverse) {
    solver.emplace(m, false);
    adjoint.emplace(m, true);
  }

  // Pieces follow from the sizes alone, and are added in their order: bits do not depend on the
  // number of threads.
  const int64_t length = std::max<int64_t>(4, tiles(strips, 64));
  const int64_t pieces = tiles(strips, length);
  std::vector<std::optional<Sums>> parts(pieces);

  run_tasks(pieces, 2 * p.sizes.columns() * channels * (channels + 8), [&](int64_t piece) {
    PieceSums sums(channels);
    Scratch scratch(channels);
    float *x = scratch.x.data(), *grad = scratch.grad.data(), *grad_x = scratch.grad_x.data();

    const int64_t last = std::min(strips, (piece + 1) * length);
    for (int64_t strip = piece * length; strip < last; ++strip) {
      const Runs runs(p.sizes, strip);
      read_strip(p.x, runs, channels, p.inverse ? m.permutation : nullptr, x);
      read_strip(p.grad_y, runs, channels, nullptr, grad);
      sums.add_plain(grad);

      if (p.inverse) {
        solver->solve(x);
        unscale(m, false, grad);
        sums.add_scaled(grad, x);
        adjoint->solve(grad);
        if (p.grad_x.data != nullptr) write_strip(grad, p.grad_x, runs, channels, m.permutation);
      } else if (p.grad_x.data != nullptr) {
        multiply_scratch(product, nullptr, p.sizes, grad, p.grad_x, runs, grad_x);
      }
      sums.add_products(grad, x);
    }
    sums.add_to(parts[piece].emplace(channels));
  });

  Sums sums(channels);
  for (auto& part : parts) sums.add(*part);
  if (p.inverse) {
    differentiate_solve(m, sums, p.gradients);
  } else {
    differentiate_product(m, sums, p.gradients);
  }
}

}  // namespace dgm::DGM_ISA
