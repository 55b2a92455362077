// What makes a feature of its parameters, and the activations of a masked network.
#pragma once

#include <cstdint>
#include <vector>

#include "common/filters.h"
#include "common/host_device.h"
#include "rational_quadratic_spline/problem.h"

namespace dgm::masked_sweep {

enum class Activation { relu, elu, gelu, silu, softplus, sigmoid, tanh };

enum class Kind { bernoulli, categorical, logistic, gaussian, gaussian_mixture, affine, spline };

// Takes `noise` numbers beside the parameters; y of a flow counts as noise.
struct Step {
  Kind kind;
  int64_t noise, levels;
  bool standardize;  // affine: x = y e^a + m, or else (y - m) e^-a
  Filters filters;
  float lowest_log_scale, bound, scale, shift;  // the network sees x scale + shift
  spline::Options spline;

  // Whether number k of the noise is a normal; uniforms decide places.
  DGM_HOST_DEVICE bool takes_normal(int k) const {
    return kind == Kind::gaussian || (kind == Kind::gaussian_mixture && k == 1);
  }
  DGM_HOST_DEVICE bool is_flow() const { return kind == Kind::affine || kind == Kind::spline; }
};

// `kind`: kind, noise, levels or bins, whether an affine step standardizes, top-k; `constants`:
// temperature, top-p and those below in their order.
inline Step step_of(const std::vector<int64_t>& kind, const double* constants) {
  const auto c = [&](int i) { return static_cast<float>(constants[i]); };
  const spline::Options bins{kind[2], c(3), c(6), c(7), false, false, true};
  return {
      static_cast<Kind>(kind[0]),
      kind[1],
      kind[2],
      kind[3] != 0,
      {c(0), kind[4], constants[1]},
      c(2),
      c(3),
      c(4),
      c(5),
      bins};
}

}  // namespace dgm::masked_sweep
