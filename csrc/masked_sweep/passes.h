// The sweep; compiled once per instruction set, so without a guard.

#include "masked_sweep/products.h"

namespace dgm::DGM_ISA {

namespace sweep {

using masked_sweep::Edge;
using masked_sweep::Plan;
using masked_sweep::Sweep;

// Some samples, which go through the features together and share each load of a weight.
//
// A level is (units, samples). What blocks before a block give to its units is one product; within
// the block each step takes what the steps before it have added.
class Samples {
 public:
  Samples(const Sweep& sweep, int64_t first, int64_t count)
      : d(sweep),
        plan(sweep.plan),
        first(first),
        count(count),
        vectors((count + kLanes - 1) / kLanes),
        pitch(vectors * kLanes),
        outputs_(plan.block * plan.parameters * pitch),
        noise_(plan.block * d.step.noise * pitch),
        log_det_(pitch),
        pick_(d.step, plan.parameters) {
    for (int64_t l = 0; l <= plan.hidden; ++l) {
      levels_.emplace_back(plan.units(l) * pitch);
      // The sums of levels that others add to theirs.
      const bool is_skipped = std::find(d.skips.begin(), d.skips.end(), l) != d.skips.end();
      sums_.emplace_back(l > 0 && is_skipped ? plan.units(l) * pitch : 0);
    }
  }

  void run() {
    const int64_t b0 = d.begin / plan.block;
    load_columns(d.context, plan.context, 0, plan.context, level(0));
    resume(b0 * plan.block);
    for (int64_t b = b0; b < plan.blocks() && b * plan.block < d.end; ++b) run_block(b);
    if (d.keep) keep(b0 * plan.block, (d.end - 1) / plan.block);
  }

 private:
  float* level(int64_t l) const { return levels_[l].data(); }
  float* unit(int64_t l, int64_t u) const { return level(l) + u * pitch; }
  float* sum(int64_t l, int64_t u) const { return sums_[l].data() + u * pitch; }
  // Where the units of a block that begins at `begin` are summed: parameters on their own.
  float* target(int64_t l, int64_t u, int64_t begin) const {
    return l == plan.last() ? outputs_.data() + (u - plan.start(l, begin)) * pitch : unit(l, u);
  }
  const float* bias(int64_t l) const { return d.biases + plan.columns[l]; }

  // Brings columns [begin, end) of rows of samples to rows of units; zeros beside the samples.
  void load_columns(const float* from, int64_t width, int64_t begin, int64_t end, float* to) const {
    for (int64_t c = begin; c < end; ++c, to += pitch) {
      for (int64_t s = 0; s < count; ++s) to[s] = from[(first + s) * width + c];
      std::fill(to + count, to + pitch, 0.0f);
    }
  }

  // Takes up what was done before step `begin`, at which a block begins.
  void resume(int64_t begin) {
    for (int64_t step = 0; step < begin; ++step) {
      load_columns(d.x, plan.features, d.order[step], d.order[step] + 1, noise_.data());
      for (int64_t i = 0; i < pitch; i += kLanes) see(load(noise_.data() + i), step, i);
    }
    for (int64_t l = 1; l <= plan.hidden; ++l) {
      const int64_t column = plan.columns[l];
      load_columns(d.levels, d.hidden_units, column, column + plan.start(l, begin), level(l));
    }
  }

  // Writes what the units of blocks [first step `begin`, block `last`] hold.
  void keep(int64_t begin, int64_t last) const {
    const int64_t end = plan.end_of(last);
    for (int64_t l = 1; l <= plan.hidden; ++l) {
      for (int64_t s = 0; s < count; ++s) {
        float* to = d.levels + (first + s) * d.hidden_units + plan.columns[l];
        for (int64_t u = plan.start(l, begin); u < plan.start(l, end); ++u) to[u] = unit(l, u)[s];
      }
    }
  }

  void run_block(int64_t b) {
    const int64_t begin = b * plan.block, end = std::min(plan.end_of(b), d.end);
    const float* weights = add_earlier(b);
    load_noise(begin, end);
    // Of a few terms, so that the sum of many features keeps its digits.
    std::fill_n(log_det_.data(), pitch, 0.0f);
    for (int64_t step = begin; step < end; ++step) {
      weights = add_within(begin, step, weights);
      make_feature(begin, step);
    }
    if (d.step.is_flow()) {
      for (int64_t s = 0; s < count; ++s) d.log_det[first + s] += log_det_.data()[s];
    }
  }

  // Begins the sums of a block's units with what earlier blocks give; returns the weights left.
  const float* add_earlier(int64_t b) {
    const int64_t begin = b * plan.block, end = plan.end_of(b);
    const float* weights = d.packed + d.begins[b];
    for (int64_t l = 1; l <= plan.last(); ++l) {
      const int64_t from = plan.start(l, begin), to = plan.start(l, end);
      for (int64_t u = from; u < to; ++u) {
        std::fill_n(target(l, u, begin), pitch, bias(l)[u]);
      }
      for (Edge e : plan.edges) {
        if (e.to != l) continue;
        const int64_t depth = plan.before(e.from, begin);
        weights =
            multiply(weights, to - from, level(e.from), depth, vectors, target(l, from, begin));
      }
    }
    return weights;
  }

  // Finishes the units of a step and its feature's parameters; returns the weights left.
  const float* add_within(int64_t begin, int64_t step, const float* weights) {
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

  void finish(int64_t l, int64_t from, int64_t to) {
    const int64_t skip = d.skips[l - 1];
    const bool is_kept = std::find(d.skips.begin(), d.skips.end(), l) != d.skips.end();
    for (int64_t u = from; u < to; ++u) {
      for (int64_t i = 0; i < pitch; i += kLanes) {
        Vec z = load(unit(l, u) + i);
        if (skip > 0) z += load(sum(skip, u) + i);
        if (is_kept) store(sum(l, u) + i, z);
        store(unit(l, u) + i, activate(d.activation, z));
      }
    }
  }

  void load_noise(int64_t begin, int64_t end) {
    const int64_t n = d.step.noise;
    float* to = noise_.data();
    for (int64_t step = begin; step < end; ++step) {
      const int64_t column = d.order[step] * n;
      load_columns(d.noise, plan.features * n, column, column + n, to);
      to += n * pitch;
    }
  }

  void make_feature(int64_t begin, int64_t step) {
    const int64_t n = d.step.noise, feature = d.order[step];
    const bool is_done = step < d.begin;
    const float* parameters = outputs_.data() + (step - begin) * plan.parameters * pitch;
    const float* noise = noise_.data() + (step - begin) * n * pitch;
    for (int64_t i = 0; i < pitch; i += kLanes) {
      const int64_t live = std::min<int64_t>(kLanes, count - i);
      float* const x = d.x + (first + i) * plan.features + feature;
      const bool* const given =
          d.given != nullptr ? d.given + (first + i) * plan.features + feature : nullptr;

      alignas(64) float values[kLanes] = {};
      Vec log_slope{};
      if (!is_done) store(values, pick_({parameters + i, pitch}, {noise + i, pitch}, log_slope));
      for (int64_t s = 0; s < live; ++s) {
        float& kept = x[s * plan.features];
        if (is_done || (given != nullptr && given[s * plan.features])) {
          values[s] = kept;
        } else {
          kept = values[s];
        }
      }
      store(log_det_.data() + i, load(log_det_.data() + i) + log_slope);
      see(load(values), step, i);
    }
  }

  // Shows the network a feature; what overflows is nothing to those that come after it.
  void see(Vec x, int64_t step, int64_t i) {
    store(unit(0, plan.start(0, step)) + i, finite_or(x, Vec{}) * d.step.scale + d.step.shift);
  }

  const Sweep& d;
  const Plan& plan;
  const int64_t first, count, vectors, pitch;
  std::vector<Buffer> levels_, sums_;
  Buffer outputs_, noise_, log_det_;
  Picker pick_;
};

static void run(const Sweep& sweep, int64_t threads) {
  // As many groups of vectors as threads, or more, as equal as they can be.
  const int64_t vectors = (sweep.samples + kLanes - 1) / kLanes;
  const int64_t fewest = (vectors + kMostVectors - 1) / kMostVectors;
  const int64_t groups = std::min(vectors, (fewest + threads - 1) / threads * threads);
  run_tasks(groups, sweep.begins.back() * sweep.samples, [&](int64_t i) {
    const int64_t begin = vectors * i / groups * kLanes;
    const int64_t end = std::min(sweep.samples, vectors * (i + 1) / groups * kLanes);
    Samples(sweep, begin, end - begin).run();
  });
}

}  // namespace sweep

}  // namespace dgm::DGM_ISA
