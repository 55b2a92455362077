// What the sampler of WaveNet is given.
#pragma once

#include <cstdint>

#include "common/filters.h"
#include "common/host_device.h"
#include "common/noise.h"
#include "common/padding.h"

namespace dgm::wavenet_sampler {

struct Sizes {
  int64_t channels, gated, kernel, first_kernel, skips, head, parameters;
  int64_t layers, inputs, features;  // inputs: levels of a one-hot input, or 1
};

// Matrices are input-major, so that the lanes of a product are its outputs.
struct Network {
  Sizes sizes;
  const int64_t *dilations, *rings;    // of each layer; where its ring begins
  const float *first, *first_bias;     // (first_kernel, inputs, channels)
  const float* past;                   // (layers, kernel - 1, channels, 2 gated), oldest first
  const float *chain, *residual_bias;  // (layers, channels 2 gated + gated channels)
  const float *skip, *skip_bias;       // (layers gated, skips)
  const float *head, *head_bias;       // (skips, head)
  const float *last, *last_bias;       // (head, parameters)
  const float* features;               // (features, layers 2 gated), or null

  DGM_HOST_DEVICE int64_t condition() const { return sizes.layers * 2 * sizes.gated; }
  DGM_HOST_DEVICE int64_t link() const { return 3 * sizes.channels * sizes.gated; }
  DGM_HOST_DEVICE const float* past_of(int64_t layer, int64_t tap) const {
    return past + (layer * (sizes.kernel - 1) + tap) * sizes.channels * 2 * sizes.gated;
  }
  DGM_HOST_DEVICE const float* present_of(int64_t layer) const { return chain + layer * link(); }
  DGM_HOST_DEVICE const float* residual_of(int64_t layer) const {
    return present_of(layer) + sizes.channels * 2 * sizes.gated;
  }
  // How many times back a tap of a layer looks.
  DGM_HOST_DEVICE int64_t delay(int64_t layer, int64_t tap) const {
    return (sizes.kernel - 1 - tap) * dilations[layer];
  }
};

// How a level is drawn: of `outputs` parameters, logits of the levels or a mixture's; a mixture
// leaves none out.
struct Output {
  bool mixture;
  int64_t outputs, levels;
  Filters filters;
  float lowest_log_scale;
};

struct Draw {
  Network network;
  Output output;
  int64_t samples, steps, time;
  float* rings;  // (samples, ring): the inputs of every layer, one ring of `channels` a time each
  int64_t ring;
  int64_t* recent;  // (samples, first_kernel), the last levels, oldest first; -1 where none was
  const float* condition;
  int64_t condition_step;  // from sample to sample, or 0
  const float* features;   // (samples, steps, features), or null
  const int64_t* given;    // (samples, steps): levels to go through, or null, and then
  Noise noise;             // (samples, steps, uniforms)
  int64_t* levels;         // (samples, steps)
  float* parameters;       // (samples, steps, outputs), or null
};

// Whether two threads draw all samples together, each with its part of the weights: of few samples
// that is faster than a thread for some of them, if only the weights are more than some.
inline bool is_for_a_team(const Draw& draw, int64_t threads) {
  constexpr int64_t kWorthATeam = 1 << 18;
  const Sizes& n = draw.network.sizes;
  const int64_t weights = n.layers * (draw.network.link() + n.gated * n.skips) + n.skips * n.head +
                          n.head * n.parameters;
  // Of five to eight the two are faster than two threads by themselves, and not than more.
  return threads > 1 && draw.samples <= (threads == 2 ? 8 : 4) && draw.given == nullptr &&
         weights >= kWorthATeam;
}

}  // namespace dgm::wavenet_sampler
