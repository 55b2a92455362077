// What the sampler of transformers is given.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "sequence_sampler/tokens.h"

namespace dgm::transformer_sampler {

// Keys lie in blocks of so many places, whose lanes are the places.
constexpr int64_t kBlock = 16;
constexpr float kNormEpsilon = 1e-5f;

struct Sizes {
  int64_t width, heads, head, hidden, outputs, places, layers, symbols;

  DGM_HOST_DEVICE int64_t channels() const { return heads * padded(head); }
  DGM_HOST_DEVICE int64_t blocks() const { return (places + kBlock - 1) / kBlock; }
};

// Matrices lie in panels on a CPU, and row after row on a GPU; the norms' gains are part of those
// after them.
struct Layer {
  const float *qkv, *out;  // (width, 3 channels), (channels, width)
  const float *up, *down;  // (width, hidden), (hidden, width)
  float* keys;             // (samples, heads, blocks, head, kBlock)
  float* values;           // (samples, heads, places, padded head)
};

struct Network {
  Sizes sizes;
  const float* embedding;  // (symbols, padded width)
  const float* positions;  // (places, padded width), or null
  const float* turns;      // (places, 2, head / 2), cosine and sine, or null
  const float* head;       // (width, outputs)
  const Layer* layers;

  int64_t multiply_adds() const {
    const int64_t a_layer = 4 * sizes.channels() + 2 * sizes.hidden;
    return sizes.width * (sizes.layers * a_layer + sizes.outputs);
  }
};

struct Draw {
  Network network;
  sequence_sampler::Tokens tokens;
  int64_t seen;                 // inputs that keys and values hold
  bool feeds_together = false;  // of a GPU's block: several places of a sequence at a time
};

}  // namespace dgm::transformer_sampler
