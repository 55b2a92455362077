// The sweep from the last feature to the first, which solves a transposed system; compiled once per
// instruction set, so without a guard.

#include "masked_sweep/passes.h"

namespace dgm::DGM_ISA {

namespace sweep {

using masked_sweep::Held;
using masked_sweep::Transposed;

class Backwards : Levels {
 public:
  Backwards(const Transposed& transposed, int64_t first, int64_t count)
      : Levels(transposed.network, first, count), d(transposed), row_(pitch), slopes_(pitch) {}

  void run() {
    for (int64_t b = 0; b < plan.blocks(); ++b) {
      const int64_t begin = b * plan.block;
      const float* weights = add_earlier(b);
      for (int64_t step = begin; step < plan.end_of(b); ++step) {
        weights = add_within(begin, step, weights, [&](int64_t l, int64_t from, int64_t to) {
          finish(l, from, to);
        });
        solve(outputs(begin, step), step);
      }
    }
  }

 private:
  // Nothing goes back through a unit that was not positive.
  void finish(int64_t l, int64_t from, int64_t to) {
    const Held held = d.held[l - 1];
    const int64_t skip = network.skips[l - 1];
    for (int64_t u = from; u < to; ++u) {
      load_columns(held.units, held.width, held.places[u], held.places[u] + 1, row_.data());
      for (int64_t i = 0; i < pitch; i += kLanes) {
        Vec z = load(row_.data() + i) > 0.0f ? load(unit(l, u) + i) : Vec{};
        if (skip > 0) z += load(unit(skip, u) + i);
        store(unit(l, u) + i, z);
      }
    }
  }

  void solve(const float* back, int64_t step) {
    const int64_t feature = network.order[step], n = d.inputs;
    float* const inputs = unit(0, plan.start(0, step));
    load_columns(d.grad, plan.features, feature, feature + 1, row_.data());
    load_columns(d.slopes, plan.features, feature, feature + 1, slopes_.data());
    load_columns(d.by_parameters, plan.features * n, feature * n, (feature + 1) * n, inputs);
    // Beside the samples that is 0 / 0, of lanes that nobody reads.
    for (int64_t i = 0; i < pitch; i += kLanes) {
      const Vec w = (load(row_.data() + i) - load(back + i)) / load(slopes_.data() + i);
      store(row_.data() + i, w);
      for (int64_t k = 0; k < n; ++k) {
        float* const input = inputs + k * pitch + i;
        store(input, load(input) * w);
      }
    }
    for (int64_t s = 0; s < count; ++s) {
      d.w[(first + s) * plan.features + feature] = row_.data()[s];
    }
  }

  const Transposed& d;
  Buffer row_, slopes_;
};

static void run_transposed(const Transposed& transposed, int64_t threads) {
  run_samples(transposed.network, transposed.samples, threads, [&](int64_t first, int64_t count) {
    Backwards(transposed, first, count).run();
  });
}

}  // namespace sweep

}  // namespace dgm::DGM_ISA
