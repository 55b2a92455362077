// What the sampler of recurrent networks is given.
#pragma once

#include <cstdint>
#include <vector>

#include "sequence_sampler/tokens.h"

namespace dgm::recurrent_sampler {

// Inputs are embeddings of so many channels; of none, a table has their first products.
struct Sizes {
  int64_t inputs, width, outputs;
};

// Sums are four of each unit: an LSTM's input, forget, cell and output gate; of a GRU what the new
// state takes from the input, reset and update gate, and what it takes from the old state.
struct Layer {
  const float *input, *hidden;  // (inputs or width, 4 or 3 units), (width, 4 or 3 units) in panels
  const float* bias;            // (4 units)
  float *state, *cell;          // (samples, width); a cell of an LSTM, or null
};

struct Network {
  bool lstm;
  Sizes sizes;
  const float* first;  // (symbols, padded inputs), or the table (symbols, 4 units), biases included
  const float *head, *head_bias;  // (width, outputs) in panels, padded
  std::vector<Layer> layers;

  int64_t units() const { return sequence_sampler::padded(sizes.width); }
  int64_t multiply_adds() const {
    const int64_t gates = lstm ? 4 : 3, count = static_cast<int64_t>(layers.size());
    return sizes.width * (gates * (sizes.inputs + (2 * count - 1) * sizes.width) + sizes.outputs);
  }
};

struct Draw {
  Network network;
  sequence_sampler::Tokens tokens;
};

}  // namespace dgm::recurrent_sampler
