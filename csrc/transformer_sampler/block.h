// Some sequences of a transformer drawn by a block of threads, whose inputs go up through the
// layers together, one place after another; of inputs that nobody looks at after, several places of
// a sequence together.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/block_choice.h"
#include "transformer_sampler/block_memory.h"

namespace dgm::transformer_sampler {

DGM_HOST_DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0x1.6a09e6p-1f)); }

// S inputs that go up: of one sequence `together`.
template <int S, typename Block>
class Ascent {
 public:
  DGM_HOST_DEVICE Ascent(const Draw& draw, const Block& block, int64_t first, int together)
      : d(draw),
        net(draw.network),
        n(draw.network.sizes),
        block(block),
        at_(n, S),
        all_(draw.tokens, block, first, at_.draw, together),
        together_(together),
        width_(static_cast<int>(padded(n.width))),
        hidden_(static_cast<int>(padded(n.hidden))),
        channels_(static_cast<int>(n.channels())),
        heads_(static_cast<int>(n.heads)),
        head_(static_cast<int>(n.head)) {}

  // Takes in all inputs that nobody looks at after, and returns how many there were.
  DGM_HOST_DEVICE int64_t feed() {
    const int64_t unseen = d.tokens.unseen();
    for (int64_t i = 0; i < unseen; i += together_) {
      const int64_t input = i + all_.offset;
      // Where fewer are left, the last stands for those that are missing.
      is_there_ = all_.is_there() && input < unseen;
      go_up(input < unseen ? input : unseen - 1);
    }
    return unseen;
  }

  // Takes in the inputs from `begin` on, and draws.
  DGM_HOST_DEVICE void go_on(int64_t begin) {
    is_there_ = all_.is_there();
    for (int64_t i = begin; i < all_.inputs(); ++i) go_up(i);
  }

 private:
  // This thread's sequence's part of what is shared, of so many floats a sequence.
  DGM_HOST_DEVICE float* own(int at, int floats) const { return shared(at) + all_.s * floats; }
  DGM_HOST_DEVICE float* shared(int at) const { return block.shared() + at; }
  DGM_HOST_DEVICE float* x() const { return own(at_.x, width_); }
  DGM_HOST_DEVICE float* normal() const { return own(at_.normal, width_); }
  DGM_HOST_DEVICE float* sums() const { return own(at_.moments, 2 * kParts); }
  DGM_HOST_DEVICE float* squares() const { return sums() + kParts; }
  DGM_HOST_DEVICE float* heads() const { return own(at_.heads, channels_); }
  DGM_HOST_DEVICE float* scores(int head) const {
    const int places = static_cast<int>(n.places);
    return own(at_.scores, heads_ * places) + head * places;
  }
  DGM_HOST_DEVICE float* most(int head) const {
    return own(at_.most, heads_ * kParts) + head * kParts;
  }
  DGM_HOST_DEVICE float* totals(int head) const {
    return own(at_.totals, heads_ * kParts) + head * kParts;
  }
  DGM_HOST_DEVICE float* hidden() const { return own(at_.hidden, hidden_); }
  DGM_HOST_DEVICE float* mixtures(int part) const {
    return own(at_.draw.partial, kParts * channels_) + part * channels_;
  }

  DGM_HOST_DEVICE float* keys(const Layer& layer, int head) const {
    return layer.keys + (all_.sample() * n.heads + head) * n.blocks() * n.head * kBlock;
  }
  DGM_HOST_DEVICE float* values(const Layer& layer, int head) const {
    return layer.values + (all_.sample() * n.heads + head) * n.places * padded(n.head);
  }

  // Calls f(i) for this thread's share of what its sequence has so much of.
  template <typename F>
  DGM_HOST_DEVICE void for_each(int count, const F& f) const {
    for (int i = all_.lane; i < count; i += all_.team) f(i);
  }
  DGM_HOST_DEVICE static float sum_of_parts(const float* parts) {
    float sum = 0.0f;
    for (int part = 0; part < kParts; ++part) sum += parts[part];
    return sum;
  }

  // What is no symbol comes out as no number: nobody looks at tokens that lie on a GPU before they
  // are given.
  DGM_HOST_DEVICE void embed(int64_t symbol) const {
    const bool is_one = symbol >= 0 && symbol < n.symbols;
    for_each(width_, [&](int i) {
      const float e = is_one ? net.embedding[symbol * width_ + i] : NAN;
      const int64_t at = static_cast<int64_t>(place_) * width_ + i;
      x()[i] = net.positions == nullptr ? e : e + net.positions[at];
    });
  }

  DGM_HOST_DEVICE void go_up(int64_t input) {
    const bool is_looked_at = all_.is_looked_at(input);
    const int maps = kMapsOfLayer * static_cast<int>(n.layers);
    // Of what nobody looks at after, the last layer's keys and values are all that is wanted.
    const int count = is_looked_at ? maps + 1 : maps - kMapsOfLayer + 1;
    place_ = static_cast<int>(d.seen + input);
    embed(all_.input(input));
    block.sync();
    for (int m = 0; m < count; ++m) {
      go_through(m < maps ? m % kMapsOfLayer : kHead, m / kMapsOfLayer, input);
    }
  }

  // Weights set out before the threads wait for what they are multiplied with.
  DGM_HOST_DEVICE void go_through(int map, int layer_place, int64_t input) const {
    const Layer& layer = net.layers[map == kHead ? 0 : layer_place];
    const float* weight = weight_of(map, layer);
    const Product<S> product(cut_of(n, map), all_.thread, all_.threads, shared(at_.draw.partial));
    const Chunk ahead = product.ahead(weight);
    if (map == kOut) {
      attend(layer);
    } else if (map != kDown) {
      normalize();
    }
    const int from = map == kOut ? at_.heads : map == kDown ? at_.hidden : at_.normal;
    const int step = map == kOut ? channels_ : map == kDown ? hidden_ : width_;
    product.make(weight, ahead, shared(from), step);
    if (map == kHead) {
      all_.draw(product, nullptr, input);
    } else {
      block.sync();
      take_over(map, layer, product);
      block.sync();
    }
  }

  DGM_HOST_DEVICE const float* weight_of(int map, const Layer& layer) const {
    if (map == kQkv) return layer.qkv;
    if (map == kOut) return layer.out;
    if (map == kUp) return layer.up;
    return map == kDown ? layer.down : net.head;
  }

  DGM_HOST_DEVICE void take_over(int map, const Layer& layer, const Product<S>& sums) const {
    if (map == kQkv) {
      remember(layer, sums);
    } else if (map == kUp) {
      for_each(hidden_, [&](int i) { hidden()[i] = gelu(sums.sum(0.0f, all_.s, i)); });
    } else {
      for_each(width_, [&](int i) { x()[i] = sums.sum(x()[i], all_.s, i); });
    }
  }

  // (x - mean) / deviation.
  DGM_HOST_DEVICE void normalize() const {
    const int width = static_cast<int>(n.width);
    const float over = 1.0f / static_cast<float>(width);
    for_each(kParts, [&](int part) {
      float sum = 0.0f;
      for (int i = part; i < width; i += kParts) sum += x()[i];
      sums()[part] = sum;
    });
    block.sync();
    const float mean = sum_of_parts(sums()) * over;
    for_each(kParts, [&](int part) {
      float sum = 0.0f;
      for (int i = part; i < width; i += kParts) sum = fmaf(x()[i] - mean, x()[i] - mean, sum);
      squares()[part] = sum;
    });
    block.sync();
    const float scale = 1.0f / sqrtf(fmaf(sum_of_parts(squares()), over, kNormEpsilon));
    for_each(width_, [&](int i) { normal()[i] = (x()[i] - mean) * scale; });
    block.sync();
  }

  // Keeps queries, and puts keys and values where places behind this one see them.
  DGM_HOST_DEVICE void remember(const Layer& layer, const Product<S>& qkv) const {
    const int channels = static_cast<int>(padded(n.head)), slot = place_ % static_cast<int>(kBlock);
    for_each(channels_, [&](int c) {
      const int h = c / channels, i = c % channels;
      heads()[c] = turned(qkv, c, i);
      if (!is_there_) return;
      values(layer, h)[static_cast<int64_t>(place_) * channels + i] =
          qkv.sum(0.0f, all_.s, 2 * channels_ + c);
      if (i >= head_) return;
      float* block_of_keys = keys(layer, h) + (place_ - slot) * n.head;
      block_of_keys[i * kBlock + slot] = turned(qkv, channels_ + c, i);
    });
  }

  // Channel i of a head's query or key, which turns together with one of the other half.
  DGM_HOST_DEVICE float turned(const Product<S>& qkv, int column, int i) const {
    const float own = qkv.sum(0.0f, all_.s, column);
    if (net.turns == nullptr || i >= head_) return own;
    const int half = head_ / 2;
    const bool is_first = i < half;
    const float other = qkv.sum(0.0f, all_.s, is_first ? column + half : column - half);
    const float* turn =
        net.turns + static_cast<int64_t>(place_) * head_ + (is_first ? i : i - half);
    return fmaf(own, turn[0], (is_first ? -other : other) * turn[half]);
  }

  // Scores of all places seen, their softmax, and the mixture of values in place of the queries.
  DGM_HOST_DEVICE void attend(const Layer& layer) const {
    const int places = place_ + 1;
    for_each(heads_ * places, [&](int i) { score(layer, i / places, i % places); });
    block.sync();
    for_each(heads_ * kParts, [&](int i) {
      const int h = i / kParts, part = i % kParts;
      float largest = -INFINITY;
      for (int p = part; p < places; p += kParts) largest = fmaxf(largest, scores(h)[p]);
      most(h)[part] = largest;
    });
    block.sync();
    for_each(heads_ * kParts, [&](int i) { exponentiate(i / kParts, i % kParts, places); });
    block.sync();
    const int quads = channels_ / kQuad;
    for_each(kParts * quads, [&](int i) { mix(layer, i / quads, i % quads * kQuad, places); });
    block.sync();
    const int channels = static_cast<int>(padded(n.head));
    for_each(channels_, [&](int c) {
      float sum = 0.0f;
      for (int part = 0; part < kParts; ++part) sum += mixtures(part)[c];
      heads()[c] = sum / sum_of_parts(totals(c / channels));
    });
    block.sync();
  }

  DGM_HOST_DEVICE void score(const Layer& layer, int h, int place) const {
    const int slot = place % static_cast<int>(kBlock);
    const float* key = keys(layer, h) + (place - slot) * n.head + slot;
    const float* query = heads() + h * static_cast<int>(padded(n.head));
    float sum = 0.0f;
#pragma unroll 8
    for (int i = 0; i < head_; ++i) sum = fmaf(query[i], key[i * kBlock], sum);
    scores(h)[place] = sum / sqrtf(static_cast<float>(head_));
  }

  DGM_HOST_DEVICE void exponentiate(int h, int part, int places) const {
    float largest = most(h)[0];
    for (int i = 1; i < kParts; ++i) largest = fmaxf(largest, most(h)[i]);
    float sum = 0.0f;
    for (int p = part; p < places; p += kParts) {
      const float e = expf(scores(h)[p] - largest);
      scores(h)[p] = e;
      sum += e;
    }
    totals(h)[part] = sum;
  }

  // A part of the weighted sum of four channels of values.
  DGM_HOST_DEVICE void mix(const Layer& layer, int part, int channel, int places) const {
    const int channels = static_cast<int>(padded(n.head)), h = channel / channels;
    const float *weights = scores(h), *value = values(layer, h) + channel % channels;
    Quad sum{};
#pragma unroll 4
    for (int p = part; p < places; p += kParts) {
      const Quad v = load(value + static_cast<int64_t>(p) * channels);
      for (int j = 0; j < kQuad; ++j) sum.of[j] = fmaf(weights[p], v.of[j], sum.of[j]);
    }
    store(mixtures(part) + channel, sum);
  }

  const Draw& d;
  const Network& net;
  const Sizes& n;
  const Block& block;
  const Shared at_;
  const Sequences<S, Block> all_;
  const int together_, width_, hidden_, channels_, heads_, head_;
  int place_ = 0;
  bool is_there_ = true;
};

// S sequences from `first` on, or as many as there are.
template <int S, typename Block>
class Group {
 public:
  DGM_HOST_DEVICE Group(const Draw& draw, const Block& block, int64_t first)
      : d(draw), block(block), first_(first) {}

  DGM_HOST_DEVICE void run() const {
    int64_t done = 0;
    if constexpr (S < kMostSamples) {
      constexpr int kTogether = kMostSamples / S;
      if (d.feeds_together) done = Ascent<kMostSamples, Block>(d, block, first_, kTogether).feed();
    }
    Ascent<S, Block>(d, block, first_, 1).go_on(done);
  }

 private:
  const Draw& d;
  const Block& block;
  const int64_t first_;
};

}  // namespace dgm::transformer_sampler
