// The sweep; compiled once per instruction set, so without a guard.

#include "masked_sweep/levels.h"

namespace dgm::DGM_ISA {

namespace sweep {

using masked_sweep::Sweep;

class Samples : Levels {
 public:
  Samples(const Sweep& sweep, int64_t first, int64_t count)
      : Levels(sweep.network, first, count),
        d(sweep),
        noise_(plan.block * d.step.noise * pitch),
        log_det_(pitch),
        pick_(d.step, plan.parameters) {
    for (int64_t l = 0; l <= plan.hidden; ++l) {
      sums_.emplace_back(l > 0 && is_skipped(l) ? plan.units(l) * pitch : 0);
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
  float* sum(int64_t l, int64_t u) const { return sums_[l].data() + u * pitch; }
  // Whether others add the level's sums to theirs.
  bool is_skipped(int64_t l) const {
    const auto& skips = network.skips;
    return std::find(skips.begin(), skips.end(), l) != skips.end();
  }

  // Takes up what was done before step `begin`, at which a block begins.
  void resume(int64_t begin) {
    for (int64_t step = 0; step < begin; ++step) {
      load_columns(d.x, plan.features, network.order[step], network.order[step] + 1, noise_.data());
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
      weights = add_within(
          begin, step, weights, [&](int64_t l, int64_t from, int64_t to) { finish(l, from, to); });
      make_feature(begin, step);
    }
    if (d.step.is_flow()) {
      for (int64_t s = 0; s < count; ++s) d.log_det[first + s] += log_det_.data()[s];
    }
  }

  void finish(int64_t l, int64_t from, int64_t to) {
    const int64_t skip = network.skips[l - 1];
    const bool is_kept = is_skipped(l);
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
      const int64_t column = network.order[step] * n;
      load_columns(d.noise, plan.features * n, column, column + n, to);
      to += n * pitch;
    }
  }

  void make_feature(int64_t begin, int64_t step) {
    const int64_t n = d.step.noise, feature = network.order[step];
    const bool is_done = step < d.begin;
    const float* parameters = outputs(begin, step);
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
  std::vector<Buffer> sums_;
  Buffer noise_, log_det_;
  Picker pick_;
};

static void run(const Sweep& sweep, int64_t threads) {
  run_samples(sweep.network, sweep.samples, threads, [&](int64_t first, int64_t count) {
    Samples(sweep, first, count).run();
  });
}

}  // namespace sweep

}  // namespace dgm::DGM_ISA
