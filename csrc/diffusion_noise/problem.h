// What the boundary of diffusion_noise hands to its arithmetic.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "common/schedule.h"

namespace dgm::diffusion_noise {

struct Forward {
  int64_t samples, elements;
  Rows<const char> x0;
  Noise noise;
  Steps t;
  Table alpha, sigma;
  Target target;
  Rows<char> x_t, made;
};

// An absent gradient counts as zero.
struct Backward {
  int64_t samples, elements;
  Rows<const char> grad_x_t, grad_target;
  Steps t;
  Table alpha, sigma;
  Target target;
  Rows<char> grad_x0;
};

}  // namespace dgm::diffusion_noise
