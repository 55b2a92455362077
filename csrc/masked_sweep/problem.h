// What the sweep through a masked network is given, and how its weights are packed.
#pragma once

#include <cstdint>
#include <vector>

#include "masked_sweep/step.h"

namespace dgm::masked_sweep {

// Units of a level that share each load of what they multiply: the rows of a packed tile.
constexpr int64_t kRows = 6;
// Inputs of a packed tile: of many samples they stay near the first cache while rows go by.
constexpr int64_t kDepth = 128;

struct Edge {
  int64_t from, to;
};

// The units of a network by level, each level sorted by degree. Level 0 has the context and then
// the features in their order, levels 1 to `hidden` are hidden, the last one has `parameters` rows
// for each feature. Step p finishes the hidden units of degree p and then feature p, counted from
// 0.
struct Plan {
  int64_t features, context, parameters, hidden, block;
  const int64_t* starts;    // (hidden + 2, features + 1): a level's first unit of each step
  std::vector<Edge> edges;  // by `to`
  // Of each level, how many units of hidden levels come before its own; those that see all features
  // and that none sees count, though no step finishes them.
  std::vector<int64_t> columns{0, 0};

  int64_t last() const { return hidden + 1; }
  int64_t blocks() const { return (features + block - 1) / block; }
  int64_t end_of(int64_t b) const { return b + 1 < blocks() ? (b + 1) * block : features; }
  int64_t start(int64_t level, int64_t step) const { return starts[level * (features + 1) + step]; }
  int64_t units(int64_t level) const { return start(level, features); }
  // How many units of a level are finished before step p, and before its own last ones.
  int64_t before(int64_t level, int64_t step) const { return start(level, step); }
  int64_t ready(int64_t level, int64_t step) const {
    return level == 0 ? start(0, step) : start(level, step + 1);
  }
  // Weights of an edge that a block, and one step of a block that begins at `first`, have packed.
  int64_t dense(Edge e, int64_t first, int64_t end) const {
    return (start(e.to, end) - start(e.to, first)) * before(e.from, first);
  }
  int64_t within(Edge e, int64_t first, int64_t step) const {
    return (start(e.to, step + 1) - start(e.to, step)) *
           (ready(e.from, step) - before(e.from, first));
  }
  int64_t packed(int64_t b) const {
    const int64_t first = b * block, end = end_of(b);
    int64_t floats = 0;
    for (Edge e : edges) {
      floats += dense(e, first, end);
      for (int64_t step = first; step < end; ++step) floats += within(e, first, step);
    }
    return floats;
  }
};

// A weight (out, in) where it lies, and the places in it of sorted units; null columns are sorted.
struct Source {
  const float* weight;
  int64_t row_pitch, column_pitch;
  const int64_t *rows, *columns;

  // Where an input's weights begin.
  int64_t column(int64_t k) const { return (columns != nullptr ? columns[k] : k) * column_pitch; }
};

struct Pack {
  Plan plan;
  std::vector<Source> sources;  // of the plan's edges
  std::vector<int64_t> begins;  // of each block's weights
  float* packed;
};

struct Network {
  Plan plan;
  std::vector<int64_t> begins;   // of each block's weights
  const float *packed, *biases;  // of hidden units and parameters, level by level; or null
  const int64_t* order;          // the feature of each step
  std::vector<int64_t> skips;    // of each hidden level, the one that it adds to its own, or 0
};

// Skips are of sums.
struct Sweep {
  Network network;
  Step step;
  Activation activation;
  int64_t samples, begin, end;  // steps to go
  float* x;                     // (samples, features)
  float* levels;                // (samples, hidden units), what earlier blocks' units hold
  int64_t hidden_units;
  bool keep;             // write `levels`
  float* log_det;        // (samples,), added to; of a flow
  const float* context;  // (samples, context)
  const float* noise;    // (samples, features, noise)
  const bool* given;     // (samples, features): features that keep their x; or null
};

// What a hidden level held, (samples, units), and the place in it of each sorted unit.
struct Held {
  const float* units;
  int64_t width;
  const int64_t* places;
};

// J^T w = grad, J = diag(slopes) + by_parameters d network / dx of a network of ReLUs, is a sweep
// through that network turned round: its inputs are w by_parameters, P of each feature, its levels
// are hidden ones from the last to the first, its one output of a feature is what w of later
// features gives to it, and for an activation it has the ReLU's slope. Skips are of units.
struct Transposed {
  Network network;
  std::vector<Held> held;  // of each hidden level
  int64_t samples, inputs;
  const float *grad, *slopes;  // (samples, features)
  const float* by_parameters;  // (samples, features, inputs)
  float* w;                    // (samples, features)
};

}  // namespace dgm::masked_sweep
