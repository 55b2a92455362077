// Some samples that a block of threads takes through the features together.
//
// `Block` says which thread this is and how many there are, waits for all of them or for those of
// one sample, and copies what will be there when it has waited for copies: a block of a GPU's, or
// threads of a CPU, on which this is tested.
//
// Features go in stretches. What earlier stretches give to a stretch's units are products of all
// threads, each weight loaded once for all samples. Within a stretch a sample has threads of its
// own: whatever a step finishes, they add at once to the sums of all units that are to come, each
// of them to sums that are its own, so that they wait for one another once a level.
#pragma once

#include "common/block_draws.h"
#include "common/block_noise.h"
#include "common/block_products.h"
#include "masked_sweep/block_picks.h"
#include "masked_sweep/block_problem.h"
#include "masked_sweep/block_stage.h"
#include "rational_quadratic_spline/inverse.h"

namespace dgm::masked_sweep {

using blocks::Chunk;
using blocks::load;
using blocks::Product;
using blocks::Softmax;
using blocks::store;

// Units of a level, in a stretch, that one warp sees to; more take all threads of a sample.
constexpr int kWarpUnits = 512;

// S samples from `first` on, or as many as there are; the number of threads is a multiple of S.
template <int S, typename Block>
class Group {
 public:
  DGM_HOST_DEVICE Group(
      const BlockSweep& sweep, const Shared& shared, const Block& block, int64_t first)
      : d(sweep),
        n(sweep.network),
        at_(shared),
        block(block),
        first_(first),
        thread_(block.thread()),
        threads_(block.threads()),
        team_(threads_ / S),
        s_(thread_ / team_),
        lane_(thread_ % team_),
        crew_(crew(sweep.network, block.warp(), team_)) {}

  DGM_HOST_DEVICE void run() {
    begin();
    block.sync();
    const int first = d.begin / n.stretch;
    resume(first);
    block.sync();
    for (b_ = first; b_ * n.stretch < d.end; ++b_) {
      open();
      add_earlier();
      if (lane_ < crew_) make_steps();
      block.sync();
      close();
    }
    finish(first);
  }

 private:
  // How many threads of a sample make its steps.
  DGM_HOST_DEVICE static int crew(const BlockNetwork& n, int warp, int team) {
    int widest = 0;
    for (int l = 1; l <= n.last(); ++l) widest = n.widest[l] > widest ? n.widest[l] : widest;
    return widest <= kWarpUnits && warp < team ? warp : team;
  }

  // A thread has a sample wherever there is no weight to share; where the last block has fewer than
  // S, one sample stands for those that are missing, and is not written.
  DGM_HOST_DEVICE bool is_there() const { return first_ + s_ < d.samples; }
  DGM_HOST_DEVICE int64_t sample() const { return is_there() ? first_ + s_ : d.samples - 1; }
  DGM_HOST_DEVICE float* x_of(int step) const {
    return d.x + sample() * n.features + n.order[step];
  }

  DGM_HOST_DEVICE float* mine(int at) const { return block.shared() + s_ * at_.sample + at; }
  DGM_HOST_DEVICE float* level(int l) const { return mine(at_.levels[l]); }
  DGM_HOST_DEVICE float* sums(int l) const { return mine(at_.sums[l]); }
  DGM_HOST_DEVICE int* given() const { return reinterpret_cast<int*>(mine(at_.given)); }
  DGM_HOST_DEVICE int* due() const { return reinterpret_cast<int*>(block.shared() + at_.due); }
  DGM_HOST_DEVICE int* begins() const {
    return reinterpret_cast<int*>(block.shared() + at_.begins);
  }
  DGM_HOST_DEVICE Route* routes() const {
    return reinterpret_cast<Route*>(block.shared() + at_.routes);
  }

  // Where the units of stretch b of a level begin, how many this one has, and those of its step i.
  DGM_HOST_DEVICE int begin_of(int l, int b) const { return begins()[l * (n.stretches + 1) + b]; }
  DGM_HOST_DEVICE int width(int l) const { return begin_of(l, b_ + 1) - begin_of(l, b_); }
  DGM_HOST_DEVICE Span due_of(int l, int i) const {
    const int* steps = due() + (l - 1) * (n.stretch + 1);
    return {steps[i], steps[i + 1]};
  }
  DGM_HOST_DEVICE int first_step() const { return b_ * n.stretch; }
  DGM_HOST_DEVICE int steps() const {
    const int left = d.end - first_step();
    return left < n.stretch ? left : n.stretch;
  }

  DGM_HOST_DEVICE void begin() {
    for (int i = lane_; i < at_.sums[1]; i += team_) mine(0)[i] = 0.0f;
    const int count = n.stretches + 1;
    for (int i = thread_; i < (n.hidden + 2) * count; i += threads_) {
      begins()[i] = static_cast<int>(n.row(i / count)[n.features + 1 + i % count]);
    }
    if (lane_ == 0 && d.step.is_flow()) log_det_ = d.log_det[sample()];
  }

  // Takes up what was done before stretch `end`.
  DGM_HOST_DEVICE void resume(int end) {
    for (int c = lane_; c < n.context; c += team_) {
      level(0)[c] = d.context[sample() * n.context + c];
    }
    for (int step = lane_; step < end * n.stretch; step += team_) {
      level(0)[begin_of(0, step / n.stretch) + step % n.stretch] = seen_of(d.step, *x_of(step));
    }
    for (int l = 1; l <= n.hidden; ++l) {
      for (int b = 0; b < end; ++b) {
        const int from = n.start(l, b * n.stretch), to = n.start(l, (b + 1) * n.stretch);
        float* units = level(l) + begin_of(l, b) - from;
        for (int u = from + lane_; u < to; u += team_) units[u] = kept(l)[u];
      }
    }
  }

  DGM_HOST_DEVICE float* kept(int l) const {
    return d.levels + sample() * d.hidden_units + n.columns[l];
  }

  // Writes what units hold that were finished from stretch `first` on, and of a flow the sum.
  DGM_HOST_DEVICE void finish(int first) const {
    if (!is_there()) return;
    if (lane_ == 0 && d.step.is_flow()) d.log_det[sample()] = log_det_;
    for (int l = 1; l <= n.hidden && d.keep; ++l) {
      for (int b = first; b < b_; ++b) {
        const int end = (b + 1) * n.stretch;
        const int from = n.start(l, b * n.stretch), to = n.start(l, end < d.end ? end : d.end);
        const float* units = level(l) + begin_of(l, b) - from;
        for (int u = from + lane_; u < to; u += team_) kept(l)[u] = units[u];
      }
    }
  }

  // Sends for what a stretch needs.
  DGM_HOST_DEVICE void open() const {
    if (at_.is_staged) stage();
    for (int l = 1; l <= n.last(); ++l) {
      const float* biases = n.biases[l] + begin_of(l, b_);
      for (int u = lane_; u < width(l); u += team_) block.copy(sums(l) + u, biases + u);
    }
    for (int i = lane_; i < steps(); i += team_) {
      const int64_t feature = n.order[first_step() + i], place = sample() * n.features + feature;
      block.copy(mine(at_.values) + i, d.x + place);
      take_noise(feature, mine(at_.noise) + i * static_cast<int>(d.step.noise));
      given()[i] = d.given != nullptr && d.given[place];
    }
    const int count = n.stretch + 1;
    for (int i = thread_; i < n.hidden * count; i += threads_) {
      const int l = i / count + 1, step = i % count;
      if (step <= steps()) due()[i] = n.start(l, first_step() + step) - n.start(l, first_step());
    }
    for (int e = thread_; e < n.edges; e += threads_) routes()[e] = route_of(e);
  }

  DGM_HOST_DEVICE void take_noise(int64_t feature, float* to) const {
    const Noise& noise = d.noise;
    for (int k = 0; k < d.step.noise; ++k) {
      if (noise.given == nullptr) {
        to[k] = blocks::noise_at(noise, sample(), feature, k, d.step.takes_normal(k));
      } else {
        block.copy(to + k, noise.given_at(sample(), feature) + k);
      }
    }
  }

  DGM_HOST_DEVICE Route route_of(int e) const {
    const BlockEdge edge = n.edge(e);
    // Of parameters, features are made.
    const int to = edge.to < n.last() ? edge.to : 0;
    return {
        at_.levels[edge.from] + begin_of(edge.from, b_),
        at_.sums[edge.to],
        width(edge.to) / kQuad,
        at_.levels[to] + begin_of(to, b_),
        at_.is_staged ? staged(e) : weights(e),
        at_.is_staged ? n.widest[edge.to] : n.units[edge.to]};
  }

  // Brings weights within the stretch near.
  DGM_HOST_DEVICE void stage() const {
    for (int e = 0; e < n.edges; ++e) {
      const BlockEdge edge = n.edge(e);
      const int quads = width(edge.to) / kQuad, count = width(edge.from) * quads;
      for (int i = thread_; i < count; i += threads_) {
        const int row = i / quads, column = i % quads * kQuad;
        block.copy_quad(
            staged(e) + row * n.widest[edge.to] + column,
            weights(e) + row * n.units[edge.to] + column);
      }
    }
  }

  DGM_HOST_DEVICE const float* weights(int e) const {
    const BlockEdge edge = n.edge(e);
    return n.weights[e] + begin_of(edge.from, b_) * n.units[edge.to] + begin_of(edge.to, b_);
  }
  DGM_HOST_DEVICE float* staged(int e) const { return block.shared() + at_.weights[e]; }

  // Adds to a stretch's sums what units of earlier ones give.
  DGM_HOST_DEVICE void add_earlier() const {
    bool is_first = true;
    for (int e = 0; e < n.edges; ++e) {
      const BlockEdge edge = n.edge(e);
      const int ins = begin_of(edge.from, b_), outs = width(edge.to);
      if (ins == 0 || outs == 0) continue;
      const Product<S> product(
          blocks::Cut(ins, outs, n.units[edge.to]), thread_, threads_,
          block.shared() + at_.partial);
      const float* weight = n.weights[e] + begin_of(edge.to, b_);
      const Chunk ahead = product.ahead(weight);
      // For sums of parts to be used.
      if (!is_first) block.sync();
      is_first = false;
      product.make(weight, ahead, block.shared() + at_.levels[edge.from], at_.sample);
      block.wait_for_copies();
      block.sync();
      float* to = sums(edge.to);
      for (int u = lane_; u < outs; u += team_) to[u] = product.sum(to[u], s_, u);
    }
    block.wait_for_copies();
    block.sync();
  }

  DGM_HOST_DEVICE void wait() const { block.sync_team(s_, crew_); }

  DGM_HOST_DEVICE Found found_by(const Route& route, const Span& found) const {
    return {
        mine(route.found) + found.begin, found.end - found.begin,
        route.weights + found.begin * route.pitch, route.pitch};
  }

  // Of a level in step i, to which some units of the level before are new.
  DGM_HOST_DEVICE Stage stage_of(int l, int i, const Span& found) const {
    const Route route = routes()[l - 1];
    const int first = i * n.parameters;
    return {
        found_by(route, found), l < n.last() ? due_of(l, i) : Span{first, first + n.parameters},
        route.quads, mine(route.sums), mine(route.units)};
  }

  // Where the next stage's things are is on its way while this one's numbers are.
  DGM_HOST_DEVICE void make_steps() const {
    const int count = steps();
    Stage stage = stage_of(1, 0, {0, 0});
    for (int i = 0; i < count; ++i) {
      for (int l = 1; l <= n.hidden; ++l) {
        const Stage next = stage_of(l + 1, i, stage.due);
        finish_units(l, stage);
        if (stage.due.begin < stage.due.end) wait();
        stage = next;
      }
      const bool is_last = i + 1 == count;
      const Stage next = stage_of(1, is_last ? i : i + 1, {i, i + 1});
      make_feature(i, stage);
      if (!is_last) wait();
      stage = next;
    }
  }

  // Adds what was found to the sums of units that are not finished; finishes those that are due.
  // A quad may begin with finished units, whose sums nobody reads any more.
  DGM_HOST_DEVICE void finish_units(int l, const Stage& stage) const {
    const Span due = stage.due;
    const int skip = n.skips[l];
    for (int quad = lane_; quad < stage.quads; quad += crew_) {
      const int first = quad * kQuad, last = first + kQuad;
      if (last <= due.begin) continue;
      Quad sum = load(stage.sums + first);
      stage.found.add_to(sum, quad);
      store(stage.sums + first, sum);
      const int end = due.end < last ? due.end : last;
#pragma unroll 1
      for (int u = due.begin > first ? due.begin : first; u < end; ++u) {
        float z = number(sum, u - first);
        if (skip > 0) stage.sums[u] = z += sums(skip)[u];
        stage.units[u] = activate(n.activation, z);
      }
    }
  }

  DGM_HOST_DEVICE void make_feature(int i, const Stage& stage) const {
    const bool simple = is_simple(d.step.kind);
    const float noise = noise_of(i)[0];
    const bool is_given = given()[i] != 0;
    for (int quad = lane_; quad < stage.quads; quad += crew_) {
      const int first = quad * kQuad, place = stage.due.begin - first;
      if (place >= kQuad) continue;
      Quad sum = load(stage.sums + first);
      stage.found.add_to(sum, quad);
      if (n.edges > n.last()) {
        found_by(routes()[n.last()], {i > 0 ? i - 1 : 0, i}).add_to(sum, quad);
      }
      store(stage.sums + first, sum);
      // All of its parameters are this thread's.
      if (simple && place >= 0) {
        float log_slope = 0.0f;
        const float x =
            make_simple(d.step, number(sum, place), number(sum, place + 1), noise, log_slope);
        put(i, is_given, x, log_slope, stage.units);
      }
    }
    if (!simple) make_together(i, is_given, stage);
  }

  // Of a spline's parameters, or of logits.
  DGM_HOST_DEVICE void make_together(int i, bool is_given, const Stage& stage) const {
    wait();
    const float *p = stage.sums + stage.due.begin, *noise = noise_of(i);
    float log_slope = 0.0f;
    const float x = d.step.kind == Kind::spline ? bend(p, noise[0], log_slope) : draw(p, noise);
    if (lane_ == 0) put(i, is_given, x, log_slope, stage.units);
  }

  // What these return is the first thread's to use.
  DGM_HOST_DEVICE float bend(const float* p, float y, float& log_slope) const {
    float* exponentials = mine(at_.exponentials);
    const int bins = static_cast<int>(d.step.levels);
    for (int j = lane_; j < 2 * bins; j += crew_) {
      exponentials[j] = spline::exponential_of(p, bins, j);
    }
    wait();
    if (lane_ != 0) return 0.0f;
    return spline::invert(d.step.spline, exponentials, p + 2 * bins, y, log_slope);
  }

  DGM_HOST_DEVICE float draw(const float* p, const float* noise) const {
    const int count = logits_of(d.step, n.parameters);
    const Softmax softmax{
        p, count, mine(at_.exponentials), mine(at_.largest),
        reinterpret_cast<double*>(mine(at_.totals))};
    softmax.make(d.step.filters, lane_, crew_, [&] { wait(); });
    if (lane_ != 0) return 0.0f;
    const int place = softmax.place(d.step.filters, noise[0]);
    if (d.step.kind == Kind::categorical) return static_cast<float>(place);
    return gaussian(d.step, p[count + place], p[2 * count + place], noise[1]);
  }

  DGM_HOST_DEVICE const float* noise_of(int i) const {
    return mine(at_.noise) + i * static_cast<int>(d.step.noise);
  }

  // Shows the network feature i of the stretch, made or kept, among `features`.
  DGM_HOST_DEVICE void put(
      int i, bool is_given, float made, float log_slope, float* features) const {
    const bool is_done = first_step() + i < d.begin;
    float& x = mine(at_.values)[i];
    if (is_done || is_given) made = x;
    features[i] = seen_of(d.step, made);
    x = made;
    mine(at_.slopes)[i] = is_done ? 0.0f : log_slope;
  }

  // Writes the features of a stretch.
  DGM_HOST_DEVICE void close() {
    for (int i = lane_; i < steps() && is_there(); i += team_) {
      const int step = first_step() + i;
      if (step >= d.begin) *x_of(step) = mine(at_.values)[i];
    }
    if (lane_ != 0 || !d.step.is_flow()) return;
    // Of a few terms, so that the sum of many features keeps its digits.
    float sum = 0.0f;
    for (int i = 0; i < steps(); ++i) sum += mine(at_.slopes)[i];
    log_det_ += sum;
  }

  const BlockSweep& d;
  const BlockNetwork& n;
  const Shared& at_;
  const Block& block;
  const int64_t first_;
  const int thread_, threads_, team_, s_, lane_, crew_;
  int b_ = 0;  // the stretch
  float log_det_ = 0.0f;
};

}  // namespace dgm::masked_sweep
