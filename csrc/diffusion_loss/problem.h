// What the boundary of diffusion_loss hands to its arithmetic.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "common/schedule.h"

namespace dgm::diffusion_loss {

struct Inputs {
  int64_t samples, elements;
  Rows<const char> prediction, x0;
  Noise noise;
  Steps t;
  Table alpha, sigma, weight;  // without a weight every step counts 1
  Target target;

  float weight_of(int64_t sample) const { return weight ? weight.at(t.at(sample)) : 1.0; }
};

// An absent gradient is not wanted.
struct Backward {
  Inputs in;
  const float* grad_loss;
  int64_t grad_loss_step;
  Rows<char> grad_prediction, grad_x0;
};

}  // namespace dgm::diffusion_loss
