// Sequences drawn in groups, of any network; compiled once per instruction set, so without a guard.

#include "common/draws.h"
#include "common/panel_products.h"

namespace dgm::DGM_ISA {

namespace sampling {

using dgm::sequence_sampler::Tokens;

// Rows that share each load of a weight.
constexpr int64_t kMostTogether = 8 * kTileRows;

// Uses the logits up; `scratch` has room for them in whole vectors.
static int64_t pick_token(
    float* logits, int64_t count, const Filters& filters, float u, float* scratch) {
  if (filters.temperature != 0.0f) return place_of(logits, count, filters, u, scratch);
  // Of several likeliest, the uniform decides.
  filter(logits, count, filters, scratch);
  return place_of(logits, count, 1.0f, u, scratch);
}

// Takes a group of sequences through inputs and tokens. `network.feed(inputs, fed)` looks at all
// but the last of each sequence's inputs, `network.step(inputs)` at one of each, and returns the
// parameters after them.
template <typename Network>
static void draw_group(const Tokens& t, int64_t first, int64_t count, Network& network) {
  std::vector<int64_t> next(count);
  Buffer scratch(padded(t.outputs));
  const int64_t* inputs = t.inputs + first * t.fed;
  network.feed(inputs, t.fed);
  for (int64_t s = 0; s < count; ++s) next[s] = inputs[s * t.fed + t.fed - 1];

  const int64_t looks = std::max<int64_t>(1, t.steps);
  for (int64_t i = 0; i < looks; ++i) {
    const Strip parameters = network.step(next.data());
    for (int64_t s = 0; s < count; ++s) {
      const int64_t at = (first + s) * looks + i;
      float* row = parameters.row(s);
      if (t.parameters != nullptr) std::copy(row, row + t.outputs, t.parameters + at * t.outputs);
      if (!t.noise.is_there()) continue;
      next[s] = t.given != nullptr && t.given[at] >= 0
                    ? t.given[at]
                    : pick_token(row, t.outputs, t.filters, t.noise.given[at], scratch.data());
      t.drawn[at] = next[s];
    }
  }
}

// Calls draw(first, count) for groups.
template <typename Draw>
static void for_each_group(
    const Tokens& t, int64_t threads, int64_t multiply_adds, const Draw& draw) {
  const int64_t work = t.samples * (t.fed + t.steps) * multiply_adds;
  run_groups(t.samples, kMostTogether, threads, work, draw);
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
