// What the sweep of a block of threads is given, and how its threads share their memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/block_draws.h"
#include "common/block_products.h"
#include "common/host_device.h"
#include "common/noise.h"
#include "masked_sweep/block_stage.h"
#include "masked_sweep/step.h"

namespace dgm::masked_sweep {

constexpr int kMostHidden = 32;
// Levels, and as many edges: one to each level but the first, and one from inputs to outputs.
constexpr int kLevels = kMostHidden + 2;
// Floats of weights within a stretch that shared memory is worth.
constexpr int kMostStaged = 16384;

struct BlockEdge {
  int from, to;
};

// A masked network as in problem.h. Features go in stretches; the units of a level that a stretch
// finishes lie together, padded with zeros to whole chunks of a product.
struct BlockNetwork {
  int features, context, parameters, hidden;
  int stretch, stretches, edges;  // features of a stretch, how many there are
  int units[kLevels];             // of each level, padded
  int widest[kLevels];            // of each level, the most that a stretch has, padded
  int columns[kLevels];           // of each hidden level, its first column in `levels` of a state
  int skips[kLevels];  // of each hidden level, the one whose sums it adds to its own, or 0
  Activation activation;
  // (hidden + 2, features + 1 and stretches + 1): a level's first unit of each step, and where its
  // units of each stretch begin.
  const int64_t* starts;
  const int64_t* order;           // the feature of each step
  const float* weights[kLevels];  // of each edge, (units it comes from, units it goes to)
  const float* biases[kLevels];   // of each level but the first

  DGM_HOST_DEVICE int last() const { return hidden + 1; }
  DGM_HOST_DEVICE BlockEdge edge(int e) const {
    return e <= hidden ? BlockEdge{e, e + 1} : BlockEdge{0, last()};
  }
  DGM_HOST_DEVICE const int64_t* row(int level) const {
    return starts + static_cast<int64_t>(level) * (features + 1 + stretches + 1);
  }
  DGM_HOST_DEVICE int start(int level, int step) const {
    return static_cast<int>(row(level)[step]);
  }
};

// `sizes`: features, context, parameters, hidden levels, a stretch, whether inputs go to outputs,
// units of each level, widest of each level, and units of each hidden level without padding;
// `skips` of hidden levels, `weights` of edges, `biases` of one level after another.
inline BlockNetwork network_of(
    const std::vector<int64_t>& sizes, const std::vector<int64_t>& skips,
    const std::vector<const float*>& weights, const float* biases, const int64_t* starts,
    const int64_t* order, Activation activation) {
  const auto at = [&](int64_t i) { return static_cast<int>(sizes[i]); };
  BlockNetwork n{};
  n.features = at(0);
  n.context = at(1);
  n.parameters = at(2);
  n.hidden = at(3);
  n.stretch = at(4);
  n.stretches = (n.features + n.stretch - 1) / n.stretch;
  n.edges = n.last() + at(5);
  n.activation = activation;
  n.starts = starts;
  n.order = order;

  const int levels = n.last() + 1;
  std::copy(weights.begin(), weights.end(), n.weights);
  std::copy(skips.begin(), skips.end(), n.skips + 1);
  for (int l = 0; l < levels; ++l) {
    n.units[l] = at(6 + l);
    n.widest[l] = at(6 + levels + l);
    n.biases[l] = biases;
    if (l > 0) biases += n.units[l];
  }
  for (int l = 1; l < n.hidden; ++l) n.columns[l + 1] = n.columns[l] + at(5 + 2 * levels + l);
  return n;
}

struct BlockSweep {
  BlockNetwork network;
  Step step;
  int64_t samples;
  int begin, end;  // steps to go
  float* x;        // (samples, features)
  float* levels;   // (samples, hidden units), what earlier stretches' units hold
  int64_t hidden_units;
  bool keep;             // write `levels`
  float* log_det;        // (samples,), added to; of a flow
  const float* context;  // (samples, context)
  Noise noise;           // (samples, features, noise)
  const bool* given;     // (samples, features): features that keep their x; or null
};

// What the threads of a block share, each thing at so many floats from the beginning: that of one
// sample after another, and then that of all.
struct Shared {
  int levels[kLevels], sums[kLevels];
  int noise, values, slopes, given, exponentials, largest, totals, sample;
  int partial, begins, due, routes, weights[kLevels], floats;
  bool is_staged;  // whether weights within a stretch are among it

  Shared(const BlockNetwork& n, const Step& step, int samples) : Shared{} {
    for (int l = 0; l <= n.hidden; ++l) levels[l] = take(n.units[l]);
    for (int l = 1; l <= n.last(); ++l) sums[l] = take(n.widest[l]);
    noise = take(n.stretch * static_cast<int>(step.noise));
    values = take(n.stretch);
    slopes = take(n.stretch);
    given = take(n.stretch);
    exponentials = take(n.parameters);
    largest = take(blocks::kSegments);
    totals = take(2 * blocks::kSegments);
    sample = floats;

    floats *= samples;
    const int widest = *std::max_element(n.widest + 1, n.widest + n.last() + 1);
    partial = take(samples * blocks::Cut::most_sums(widest));
    begins = take((n.hidden + 2) * (n.stretches + 1));
    due = take(n.hidden * (n.stretch + 1));
    routes = take(kRouteFloats * n.edges);
    is_staged = staged(n) <= kMostStaged;
    for (int e = 0; e < n.edges && is_staged; ++e) weights[e] = take(staged(n, e));
  }

 private:
  Shared() = default;

  int take(int64_t size) {
    const int begin = floats;
    floats += static_cast<int>((size + blocks::kQuad - 1) / blocks::kQuad * blocks::kQuad);
    return begin;
  }
  static int64_t staged(const BlockNetwork& n, int e) {
    return static_cast<int64_t>(n.widest[n.edge(e).from]) * n.widest[n.edge(e).to];
  }
  static int64_t staged(const BlockNetwork& n) {
    int64_t floats = 0;
    for (int e = 0; e < n.edges; ++e) floats += staged(n, e);
    return floats;
  }
};

inline int64_t shared_bytes(const BlockNetwork& network, const Step& step, int samples) {
  return static_cast<int64_t>(sizeof(float)) * Shared(network, step, samples).floats;
}

}  // namespace dgm::masked_sweep
