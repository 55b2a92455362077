// What the units of a network hold, of some samples, level by level; compiled once per instruction
// set, so without a guard.

#include "masked_sweep/products.h"

namespace dgm::DGM_ISA {

namespace sweep {

using masked_sweep::Edge;
using masked_sweep::Network;
using masked_sweep::Plan;

// Some samples, which go through the features together and share each load of a weight.
//
// A level is (units, samples). What blocks before a block give to its units is one product; within
// the block each step takes what the steps before it have added.
class Levels {
 public:
  Levels(const Network& network, int64_t first, int64_t count)
      : network(network),
        plan(network.plan),
        first(first),
        count(count),
        vectors((count + kLanes - 1) / kLanes),
        pitch(vectors * kLanes),
        outputs_(plan.block * plan.parameters * pitch) {
    for (int64_t l = 0; l <= plan.hidden; ++l) levels_.emplace_back(plan.units(l) * pitch);
  }

 protected:
  float* level(int64_t l) const { return levels_[l].data(); }
  float* unit(int64_t l, int64_t u) const { return level(l) + u * pitch; }
  // The sums of the outputs of a step of a block that begins at `begin`.
  const float* outputs(int64_t begin, int64_t step) const {
    return outputs_.data() + (step - begin) * plan.parameters * pitch;
  }

  // Brings columns [begin, end) of rows of samples to rows of units; zeros beside the samples.
  void load_columns(const float* from, int64_t width, int64_t begin, int64_t end, float* to) const {
    for (int64_t c = begin; c < end; ++c, to += pitch) {
      for (int64_t s = 0; s < count; ++s) to[s] = from[(first + s) * width + c];
      std::fill(to + count, to + pitch, 0.0f);
    }
  }

  // Begins the sums of a block's units with what earlier blocks give; returns the weights left.
  const float* add_earlier(int64_t b) {
    const int64_t begin = b * plan.block, end = plan.end_of(b);
    const float* weights = network.packed + network.begins[b];
    for (int64_t l = 1; l <= plan.last(); ++l) {
      const int64_t from = plan.start(l, begin), to = plan.start(l, end);
      for (int64_t u = from; u < to; ++u) std::fill_n(target(l, u, begin), pitch, bias(l, u));
      for (Edge e : plan.edges) {
        if (e.to != l) continue;
        const int64_t depth = plan.before(e.from, begin);
        weights =
            multiply(weights, to - from, level(e.from), depth, vectors, target(l, from, begin));
      }
    }
    return weights;
  }

  // Sums the units of a step and its feature's outputs; `finish` makes units [from, to) of hidden
  // level l of their sums. Returns the weights left.
  template <typename Finish>
  const float* add_within(int64_t begin, int64_t step, const float* weights, const Finish& finish) {
    for (int64_t l = 1; l <= plan.last(); ++l) {
      const int64_t from = plan.start(l, step), to = plan.start(l, step + 1);
      for (Edge e : plan.edges) {
        if (e.to != l) continue;
        const int64_t done = plan.before(e.from, begin);
        weights = multiply(
            weights, to - from, unit(e.from, done), plan.ready(e.from, step) - done, vectors,
            target(l, from, begin));
      }
      if (l < plan.last()) finish(l, from, to);
    }
    return weights;
  }

  const Network& network;
  const Plan& plan;
  const int64_t first, count, vectors, pitch;

 private:
  // Where the units of a block that begins at `begin` are summed: outputs on their own.
  float* target(int64_t l, int64_t u, int64_t begin) const {
    return l == plan.last() ? outputs_.data() + (u - plan.start(l, begin)) * pitch : unit(l, u);
  }
  float bias(int64_t l, int64_t u) const {
    return network.biases != nullptr ? network.biases[plan.columns[l] + u] : 0.0f;
  }

  std::vector<Buffer> levels_;
  Buffer outputs_;
};

// Calls task(first, count) for groups of samples: as many groups of vectors as threads, or more, as
// equal as they can be.
template <typename Task>
static void run_samples(
    const Network& network, int64_t samples, int64_t threads, const Task& task) {
  const int64_t vectors = (samples + kLanes - 1) / kLanes;
  const int64_t fewest = (vectors + kMostVectors - 1) / kMostVectors;
  const int64_t groups = std::min(vectors, (fewest + threads - 1) / threads * threads);
  run_tasks(groups, network.begins.back() * samples, [&](int64_t i) {
    const int64_t begin = vectors * i / groups * kLanes;
    const int64_t end = std::min(samples, vectors * (i + 1) / groups * kLanes);
    task(begin, end - begin);
  });
}

}  // namespace sweep

}  // namespace dgm::DGM_ISA
