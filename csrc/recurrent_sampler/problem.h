// What the sampler of recurrent networks is given.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "sequence_sampler/tokens.h"

namespace dgm::recurrent_sampler {

// Inputs are embeddings of so many channels; of none, a table has their first products.
struct Sizes {
  int64_t inputs, width, outputs, layers, symbols;
};

// Sums are four of each unit: an LSTM's input, forget, cell and output gate; of a GRU what the new
// state takes from the input, reset and update gate, and what it takes from the old state.
struct Layer {
  const float *input, *hidden;  // (inputs or width, 4 or 3 units), (width, 4 or 3 units)
  const float* bias;            // (4 units)
  float *state, *cell;          // (samples, width); a cell of an LSTM, or null
};

// Matrices lie in panels on a CPU, and row after row on a GPU.
struct Network {
  bool lstm;
  Sizes sizes;
  const float* first;  // (symbols, padded inputs), or the table (symbols, 4 units), biases included
  const float *head, *head_bias;  // (width, padded outputs)
  const Layer* layers;

  DGM_HOST_DEVICE int64_t units() const { return padded(sizes.width); }
  DGM_HOST_DEVICE int64_t gates() const { return lstm ? 4 : 3; }
  int64_t multiply_adds() const {
    const int64_t of_layers = sizes.inputs + (2 * sizes.layers - 1) * sizes.width;
    return sizes.width * (gates() * of_layers + sizes.outputs);
  }
};

struct Draw {
  Network network;
  sequence_sampler::Tokens tokens;
};

}  // namespace dgm::recurrent_sampler
