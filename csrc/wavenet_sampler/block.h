// Some signals drawn by a block of threads, which take them through time together.
//
// `Block` says which thread this is and how many there are, and waits for all of them: a block of a
// GPU's, or threads of a CPU, on which this is tested.
#pragma once

#include "common/block_draws.h"
#include "common/block_noise.h"
#include "common/block_products.h"
#include "wavenet_sampler/block_picks.h"
#include "wavenet_sampler/problem.h"

namespace dgm::wavenet_sampler {

using namespace blocks;

// What the threads of a block share, each thing at so many floats from the beginning.
struct Shared {
  int x, h, z, features, skips, head, parameters, partial;
  int largest, totals, recent, seen, floats;

  DGM_HOST_DEVICE Shared(const Sizes& n, int64_t signals) : floats(0) {
    const int64_t pasts = (n.kernel - 1) * n.channels;
    x = take(signals * n.channels);
    h = take(signals * n.layers * 2 * n.gated);
    // What layers saw is used up before they make their z.
    z = take(signals * n.layers * (n.gated > pasts ? n.gated : pasts));
    features = take(signals * padded(n.features));
    skips = take(signals * n.skips);
    head = take(signals * n.head);
    parameters = take(signals * n.parameters);
    partial = take(signals * widest(n));
    largest = take(signals * kSegments);
    totals = take(signals * kSegments * 2);
    recent = take(signals * n.first_kernel);
    seen = take(n.layers * (n.kernel - 1));
  }

 private:
  DGM_HOST_DEVICE int take(int64_t size) {
    const int begin = floats;
    floats += static_cast<int>((size + kQuad - 1) / kQuad * kQuad);
    return begin;
  }

  // Of a signal, the most sums of parts that a product leaves.
  DGM_HOST_DEVICE static int64_t widest(const Sizes& n) {
    const Cut cuts[] = {
        {n.channels, 2 * n.gated},
        {n.gated, n.channels},
        {n.layers * n.gated, n.skips},
        {n.skips, n.head},
        {n.head, n.parameters}};
    int most = 0;
    for (const Cut& cut : cuts) most = cut.parts * cut.outs > most ? cut.parts * cut.outs : most;
    return most;
  }
};

inline int64_t shared_bytes(const Sizes& sizes, int64_t signals) {
  return static_cast<int64_t>(sizeof(float)) * Shared(sizes, signals).floats;
}

// S signals from `first` on, or as many as there are; the number of threads is a multiple of S.
template <int S, typename Block>
class Group {
 public:
  DGM_HOST_DEVICE Group(const Draw& draw, const Block& block, int64_t first)
      : d(draw),
        net(draw.network),
        n(draw.network.sizes),
        block(block),
        at_(n, S),
        first_(first),
        thread_(block.thread()),
        threads_(block.threads()),
        team_(threads_ / S),
        s_(thread_ / team_),
        lane_(thread_ % team_),
        channels_(static_cast<int>(n.channels)),
        gated_(static_cast<int>(n.gated)),
        layers_(static_cast<int>(n.layers)),
        taps_(static_cast<int>(n.kernel - 1)) {}

  DGM_HOST_DEVICE void run() {
    begin();
    block.sync();
    for (int64_t t = 0; t < d.steps; ++t) {
      start(t);
      block.sync();
      look_back();
      go_up();
      if (d.given == nullptr) {
        make_parameters(t);
        draw_levels(t);
      } else if (lane_ == 0) {
        remember(d.given[place(t)]);
      }
      move_rings();
      block.sync();
    }
    if (is_there()) {
      for (int i = lane_; i < n.first_kernel; i += team_) recent_of(sample())[i] = recent()[i];
    }
  }

 private:
  // A thread has a signal wherever there is no weight to share; where the last block has fewer than
  // S, one signal stands for those that are missing, and is not written.
  DGM_HOST_DEVICE bool is_there() const { return first_ + s_ < d.samples; }
  DGM_HOST_DEVICE int64_t sample_of(int s) const {
    return first_ + s < d.samples ? first_ + s : d.samples - 1;
  }
  DGM_HOST_DEVICE int64_t sample() const { return sample_of(s_); }
  DGM_HOST_DEVICE int64_t place(int64_t t) const { return sample() * d.steps + t; }
  DGM_HOST_DEVICE int64_t* recent_of(int64_t sample) const {
    return d.recent + sample * n.first_kernel;
  }

  DGM_HOST_DEVICE float* shared(int at) const { return block.shared() + at; }
  DGM_HOST_DEVICE float* x() const { return shared(at_.x); }
  DGM_HOST_DEVICE float* h() const { return shared(at_.h); }
  DGM_HOST_DEVICE float* z() const { return shared(at_.z); }
  DGM_HOST_DEVICE float* pasts() const { return shared(at_.z); }
  DGM_HOST_DEVICE float* features() const { return shared(at_.features); }
  DGM_HOST_DEVICE float* parameters() const {
    return shared(at_.parameters) + s_ * static_cast<int>(n.parameters);
  }
  DGM_HOST_DEVICE float* exponentials() const {
    return shared(at_.partial) + s_ * static_cast<int>(n.parameters);
  }
  DGM_HOST_DEVICE float* largest() const { return shared(at_.largest) + s_ * kSegments; }
  DGM_HOST_DEVICE double* totals() const {
    return reinterpret_cast<double*>(shared(at_.totals)) + s_ * kSegments;
  }
  DGM_HOST_DEVICE int* recent() const {
    return reinterpret_cast<int*>(shared(at_.recent)) + s_ * static_cast<int>(n.first_kernel);
  }
  // Of each layer and tap but the last, where in a signal's rings its input lies.
  DGM_HOST_DEVICE int* seen() const { return reinterpret_cast<int*>(shared(at_.seen)); }

  DGM_HOST_DEVICE Product<S> product(int64_t ins, int64_t outs) const {
    return {ins, outs, thread_, threads_, shared(at_.partial)};
  }

  DGM_HOST_DEVICE void begin() {
    for (int i = lane_; i < n.first_kernel; i += team_) {
      recent()[i] = static_cast<int>(recent_of(sample())[i]);
    }
    for (int i = thread_; i < layers_ * taps_; i += threads_) {
      const int64_t layer = i / taps_, slots = net.delay(layer, 0);
      const int64_t slot = (d.time + slots - net.delay(layer, i % taps_)) % slots;
      seen()[i] = static_cast<int>(net.rings[layer] + slot * n.channels);
    }
  }

  DGM_HOST_DEVICE void move_rings() {
    for (int i = thread_; i < layers_ * taps_; i += threads_) {
      const int64_t layer = i / taps_, begin = net.rings[layer];
      const int64_t next = seen()[i] + n.channels;
      const bool over = next == begin + net.delay(layer, 0) * n.channels;
      seen()[i] = static_cast<int>(over ? begin : next);
    }
  }

  // The first convolution, and what this step needs of the state and of the features.
  DGM_HOST_DEVICE void start(int64_t t) {
    copy_pasts();
    for (int i = lane_; i < channels_; i += team_) x()[s_ * channels_ + i] = first(i);
    const int width = static_cast<int>(padded(n.features));
    for (int i = lane_; i < width; i += team_) {
      const float* local = d.features + place(t) * n.features;
      features()[s_ * width + i] = i < n.features ? local[i] : 0.0f;
    }
  }

  // Levels, which a one-hot input looks up and a scalar one multiplies.
  DGM_HOST_DEVICE float first(int channel) const {
    float sum = net.first_bias[channel];
    for (int64_t tap = 0; tap < n.first_kernel; ++tap) {
      const int level = recent()[tap];
      // Nobody looks at levels that lie on a GPU before they are given.
      if (level < 0 || level >= d.output.levels) continue;
      const float* weight = net.first + tap * n.inputs * n.channels + channel;
      if (n.inputs > 1) {
        sum += weight[level * n.channels];
      } else {
        const float half = static_cast<float>(d.output.levels - 1) / 2.0f;
        sum = fmaf(static_cast<float>(level) / half - 1.0f, weight[0], sum);
      }
    }
    return sum;
  }

  DGM_HOST_DEVICE void copy_pasts() {
    // Several at once, because each takes long.
    constexpr int kTogether = 5;
    const float* rings = d.rings + sample() * d.ring;
    const int quads = channels_ / kQuad, count = layers_ * taps_ * quads;
    float* to = pasts() + s_ * count * kQuad;
    for (int begin = lane_; begin < count; begin += kTogether * team_) {
      Quad some[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int i = begin + j * team_;
        if (i < count) some[j] = load(rings + seen()[i / quads] + i % quads * kQuad);
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int i = begin + j * team_;
        if (i < count) store(to + i * kQuad, some[j]);
      }
    }
  }

  // What all gates are given by their condition, the features and all taps but the last.
  DGM_HOST_DEVICE void look_back() {
    const int outs = 2 * gated_, step = layers_ * taps_ * channels_;
    for (int column = thread_ * kQuad; column < layers_ * outs; column += threads_ * kQuad) {
      const int layer = column / outs;
      Sums<S> sums;
#pragma unroll
      for (int s = 0; s < S; ++s) {
        sums.of[s] = load_constant(d.condition + sample_of(s) * d.condition_step + column);
      }
      if (n.features > 0) {
        const int width = static_cast<int>(padded(n.features));
        add({net.features + column, layers_ * outs, width}, features(), width, sums);
      }
      for (int tap = 0; tap < taps_; ++tap) {
        const float* weight = net.past_of(layer, tap) + column % outs;
        const float* past = pasts() + (layer * taps_ + tap) * channels_;
        add({weight, outs, channels_}, past, step, sums);
      }
#pragma unroll
      for (int s = 0; s < S; ++s) store(h() + s * layers_ * outs + column, sums.of[s]);
    }
  }

  DGM_HOST_DEVICE static void add(
      const Piece& piece, const float* inputs, int step, Sums<S>& sums) {
    sums.add(piece, piece.chunk(0), inputs, step);
  }

  // Each layer's z. Weights of the next product set out before the threads wait for one another.
  DGM_HOST_DEVICE void go_up() {
    const auto present = product(channels_, 2 * gated_), residual = product(gated_, channels_);
    Chunk ahead = present.ahead(net.present_of(0));
    for (int l = 0; l < layers_; ++l) {
      present.make(net.present_of(l), ahead, x(), channels_);
      put_into_ring(l);
      ahead = residual.ahead(net.residual_of(l));
      block.sync();
      gate(present, l);
      block.sync();

      // Nothing sees the last residual.
      if (l + 1 == layers_) break;
      residual.make(net.residual_of(l), ahead, z() + l * gated_, layers_ * gated_);
      ahead = present.ahead(net.present_of(l + 1));
      block.sync();
      const float* bias = net.residual_bias + l * channels_;
      for (int i = lane_; i < channels_; i += team_) {
        float* to = x() + s_ * channels_ + i;
        *to = residual.sum(*to + bias[i], s_, i);
      }
      block.sync();
    }
  }

  // In the place of the oldest, which has been read.
  DGM_HOST_DEVICE void put_into_ring(int layer) {
    float* ring = d.rings + sample() * d.ring + seen()[layer * taps_];
    for (int i = lane_; is_there() && i < channels_; i += team_) ring[i] = x()[s_ * channels_ + i];
  }

  DGM_HOST_DEVICE void gate(const Product<S>& present, int layer) {
    const float* given = h() + (s_ * layers_ + layer) * 2 * gated_;
    for (int i = lane_; i < gated_; i += team_) {
      const float a = present.sum(given[i], s_, i);
      const float b = present.sum(given[gated_ + i], s_, gated_ + i);
      z()[(s_ * layers_ + layer) * gated_ + i] = tanhf(a) / (1.0f + expf(-b));
    }
  }

  // The skips of all layers, and two maps more.
  DGM_HOST_DEVICE void make_parameters(int64_t t) {
    float *skips = shared(at_.skips), *head = shared(at_.head);
    map(net.skip, net.skip_bias, layers_ * gated_, n.skips, z(), true, skips);
    map(net.head, net.head_bias, n.skips, n.head, skips, true, head);
    map(net.last, net.last_bias, n.head, n.parameters, head, false, shared(at_.parameters));
    if (d.parameters == nullptr || !is_there()) return;
    float* to = d.parameters + place(t) * d.output.outputs;
    for (int i = lane_; i < d.output.outputs; i += team_) to[i] = parameters()[i];
  }

  DGM_HOST_DEVICE void map(
      const float* weight, const float* bias, int64_t ins, int64_t outs, const float* inputs,
      bool relu, float* outputs) {
    const auto maps = product(ins, outs);
    maps.make(weight, maps.ahead(weight), inputs, static_cast<int>(ins));
    block.sync();
    for (int i = lane_; i < outs; i += team_) {
      const float sum = maps.sum(bias[i], s_, i);
      // A NaN stays.
      outputs[s_ * outs + i] = relu && sum < 0.0f ? 0.0f : sum;
    }
    block.sync();
  }

  DGM_HOST_DEVICE void draw_levels(int64_t t) {
    const Softmax softmax{parameters(), logits_of(d.output), exponentials(), largest(), totals()};
    softmax.make(d.output.filters, lane_, team_, [&] { block.sync(); });
    if (lane_ != 0) return;
    const int64_t level = pick(softmax, t);
    if (is_there()) d.levels[place(t)] = level;
    remember(level);
  }

  DGM_HOST_DEVICE int64_t pick(const Softmax& softmax, int64_t t) const {
    const int place = softmax.place(d.output.filters, noise_at(d.noise, sample(), t, 0));
    if (!d.output.mixture) return place;
    return level_of_component(d.output, parameters(), place, noise_at(d.noise, sample(), t, 1));
  }

  DGM_HOST_DEVICE void remember(int64_t level) {
    const int last = static_cast<int>(n.first_kernel) - 1;
    for (int tap = 0; tap < last; ++tap) recent()[tap] = recent()[tap + 1];
    recent()[last] = static_cast<int>(level);
  }

  const Draw& d;
  const Network& net;
  const Sizes& n;
  const Block& block;
  const Shared at_;
  const int64_t first_;
  const int thread_, threads_, team_, s_, lane_;
  const int channels_, gated_, layers_, taps_;
};

}  // namespace dgm::wavenet_sampler
