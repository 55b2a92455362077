// What the boundary of ddpm_step and ddim_step hands to their arithmetic.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/rows.h"
#include "common/schedule.h"

namespace dgm::diffusion_step {

// A sample's x_s = a x_t + b prediction + c x0 + std z, with x0 = u x_t + v prediction clipped;
// where nothing is clipped, c is 0.
struct Weights {
  float a, b, c, u, v, std;
};

struct Inputs {
  int64_t samples, elements;
  Rows<const char> x_t, prediction, unconditional;  // the last may be absent
  Noise noise;
  Steps t, s;  // without s it is t - 1
  Table alpha, sigma;
  Target target;
  double eta;
  bool large, recompute;
  float clip, guidance;

  bool clips() const { return clip < HUGE_VALF; }
  bool draws() const { return eta > 0; }

  // In double, because a schedule's differences cancel; reference.py derives each.
  Weights weights_of(int64_t sample) const {
    const int64_t step = t.at(sample), next = s ? s.at(sample) : step - 1;
    const bool to_clean = next == -1;
    const double alpha_t = alpha.at(step), alpha_s = to_clean ? 1.0 : alpha.at(next);
    const double sigma_s = to_clean ? 0.0 : sigma.at(next);
    // On the way to x0 no eps counts, not even where sigma_t is 0 and it cannot be known.
    const double sigma_t = sigma.at(step), divisor = to_clean && sigma_t == 0 ? 1.0 : sigma_t;

    const double root = alpha_t * sigma_s / (alpha_s * divisor), fresh = 1 - root * root;
    const double std = to_clean ? 0.0 : eta * (large ? sigma_t : sigma_s) * std::sqrt(fresh);
    const double direction = sigma_s * std::sqrt(1 - eta * eta * fresh);

    double u = 0, v = 1, eps_x = 1 / divisor, eps_p = -alpha_t / divisor;
    if (target == Target::noise) {
      u = 1 / alpha_t, v = -sigma_t / alpha_t, eps_x = 0, eps_p = 1;
    } else if (target == Target::velocity) {
      const double square = alpha_t * alpha_t + sigma_t * sigma_t;
      u = alpha_t / square, v = -sigma_t / square, eps_x = sigma_t / square, eps_p = u;
    }

    double a = direction * eps_x, b = direction * eps_p, c = alpha_s;
    if (!clips()) {
      a += alpha_s * u, b += alpha_s * v, c = 0;
    } else if (recompute) {
      a = direction / divisor, b = 0, c = alpha_s - direction * alpha_t / divisor;
    }
    const auto f = [](double x) { return static_cast<float>(x); };
    return {f(a), f(b), f(c), f(u), f(v), eta > 0 ? f(std) : 0.0f};
  }
};

// An absent gradient is not wanted.
struct Backward {
  Inputs in;
  Rows<const char> grad_x_s;
  Rows<char> grad_x_t, grad_prediction, grad_unconditional;
};

}  // namespace dgm::diffusion_step
