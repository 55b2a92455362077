// What samplers of sequences are given and what they draw, of any network.
#pragma once

#include <cstdint>

#include "common/filters.h"
#include "common/host_device.h"
#include "common/noise.h"
#include "common/padding.h"

namespace dgm::sequence_sampler {

// Sequences have inputs that have not been looked at, the last of which parameters are wanted
// after; then each token drawn is the next input.
struct Tokens {
  int64_t samples, fed, steps, outputs;
  const int64_t* inputs;  // (samples, fed)
  const int64_t* given;   // (samples, steps), negative where a token is drawn, or null
  Noise noise;            // (samples, steps); none, with no steps, where only parameters are wanted
  Filters filters;
  int64_t* drawn;     // (samples, steps)
  float* parameters;  // (samples, steps or 1, outputs), or null

  // Inputs, the first of all, that no parameters are wanted after.
  DGM_HOST_DEVICE int64_t unseen() const {
    return noise.is_there() || parameters != nullptr ? fed - 1 : fed;
  }
};

}  // namespace dgm::sequence_sampler
