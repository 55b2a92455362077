// Tokens drawn of a transformer; compiled once per instruction set, so without a guard.

#include "transformer_sampler/attention.h"

namespace dgm::DGM_ISA {

namespace transformer_sampling {

using dgm::transformer_sampler::Draw;
using dgm::transformer_sampler::kNormEpsilon;
using dgm::transformer_sampler::Layer;
using dgm::transformer_sampler::Network;
using dgm::transformer_sampler::Sizes;

// (x - mean) / deviation, of `width` channels.
static void normalize(const float* x, int64_t width, float* y) {
  const float over = 1.0f / static_cast<float>(width);
  Vec total = {}, squares = {};
  for (int64_t i = 0; i < width; i += kLanes) total += first(load(x + i), width - i);
  const Vec mean = broadcast(sum(total) * over);
  for (int64_t i = 0; i < width; i += kLanes) {
    const Vec apart = first(load(x + i) - mean, width - i);
    squares += apart * apart;
  }
  const Vec scale = broadcast(1.0f / __builtin_sqrtf(sum(squares) * over + kNormEpsilon));
  for (int64_t i = 0; i < width; i += kLanes) store(y + i, (load(x + i) - mean) * scale);
}

static void gelu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec v = load(x + i);
    store(x + i, 0.5f * v * (1.0f + erf(v * 0x1.6a09e6p-1f)));
  }
}

// Turns channel i of the first half together with channel i of the second.
static void rotate(const float* turn, int64_t half, float* x) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * turn[i] - b * turn[half + i];
    x[half + i] = b * turn[i] + a * turn[half + i];
  }
}

// Some sequences. Rows are inputs that go up through the layers together: of each sequence the
// last, or any that wait, each behind those before it.
class Group {
 public:
  Group(const Draw& draw, int64_t first, int64_t count)
      : net(draw.network),
        n(draw.network.sizes),
        first(first),
        count(count),
        seen_(count, draw.seen),
        room_(draw.tokens.fed > 1 ? kMostTogether : count),
        x_(room_ * padded(n.width)),
        normal_(room_ * padded(n.width)),
        qkv_(room_ * 3 * n.channels()),
        attended_(room_ * n.channels()),
        hidden_(room_ * padded(n.hidden)),
        parameters_(count * padded(n.outputs)),
        scores_(n.blocks() * kBlock) {}

  void feed(const int64_t* inputs, int64_t fed) {
    for (int64_t s = 0; s < count; ++s) {
      for (int64_t i = 0; i + 1 < fed; ++i) {
        add_row(s, inputs[s * fed + i]);
        if (static_cast<int64_t>(rows_.size()) == room_) go_up();
      }
    }
    if (!rows_.empty()) go_up();
  }

  Strip step(const int64_t* inputs) {
    for (int64_t s = 0; s < count; ++s) add_row(s, inputs[s]);
    go_up();
    const Strip parameters{parameters_.data(), padded(n.outputs)};
    normalize_rows(count);
    multiply(count, normal(), {net.head, n.width, parameters.pitch}, parameters, false);
    return parameters;
  }

 private:
  struct Row {
    int64_t sample, place;
  };

  Strip x() const { return {x_.data(), padded(n.width)}; }
  Strip normal() const { return {normal_.data(), padded(n.width)}; }
  Strip qkv() const { return {qkv_.data(), 3 * n.channels()}; }
  Strip attended() const { return {attended_.data(), n.channels()}; }
  Strip hidden() const { return {hidden_.data(), padded(n.hidden)}; }

  void add_row(int64_t s, int64_t input) {
    const int64_t width = padded(n.width), place = seen_[s]++;
    float* row = x().row(static_cast<int64_t>(rows_.size()));
    copy(net.embedding + input * width, width, row);
    if (net.positions != nullptr) add(net.positions + place * width, width, row);
    rows_.push_back({first + s, place});
  }

  void go_up() {
    const int64_t rows = static_cast<int64_t>(rows_.size()), width = padded(n.width);
    for (int64_t l = 0; l < n.layers; ++l) {
      const Layer& layer = net.layers[l];
      normalize_rows(rows);
      multiply(rows, normal(), {layer.qkv, n.width, 3 * n.channels()}, qkv(), false);
      for (int64_t r = 0; r < rows; ++r) remember(layer, r);
      for (int64_t r = 0; r < rows; ++r) look_around(layer, r);
      multiply(rows, attended(), {layer.out, n.channels(), width}, x(), true);

      normalize_rows(rows);
      multiply(rows, normal(), {layer.up, n.width, hidden().pitch}, hidden(), false);
      for (int64_t r = 0; r < rows; ++r) gelu(hidden().row(r), hidden().pitch);
      multiply(rows, hidden(), {layer.down, n.hidden, width}, x(), true);
    }
    rows_.clear();
  }

  void normalize_rows(int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) normalize(x().row(r), n.width, normal().row(r));
  }

  float* keys(const Layer& layer, int64_t sample, int64_t h) const {
    return layer.keys + (sample * n.heads + h) * n.blocks() * n.head * kBlock;
  }
  float* values(const Layer& layer, int64_t sample, int64_t h) const {
    return layer.values + (sample * n.heads + h) * n.places * padded(n.head);
  }

  // Puts a row's keys and values where rows behind it see them.
  void remember(const Layer& layer, int64_t r) {
    const int64_t place = rows_[r].place, channels = padded(n.head);
    const float* turn = net.turns == nullptr ? nullptr : net.turns + place * n.head;
    for (int64_t h = 0; h < n.heads; ++h) {
      float* q = qkv().row(r) + h * channels;
      float *k = q + n.channels(), *v = k + n.channels();
      if (turn != nullptr) {
        rotate(turn, n.head / 2, q);
        rotate(turn, n.head / 2, k);
      }
      float* kept = keys(layer, rows_[r].sample, h) + place / kBlock * n.head * kBlock;
      for (int64_t i = 0; i < n.head; ++i) kept[i * kBlock + place % kBlock] = k[i];
      copy(v, channels, values(layer, rows_[r].sample, h) + place * channels);
    }
  }

  void look_around(const Layer& layer, int64_t r) {
    const auto [sample, place] = rows_[r];
    for (int64_t h = 0; h < n.heads; ++h) {
      const int64_t begin = h * padded(n.head);
      attend(
          qkv().row(r) + begin, keys(layer, sample, h), values(layer, sample, h), n.head, place + 1,
          scores_.data(), attended().row(r) + begin);
    }
  }

  const Network& net;
  const Sizes& n;
  const int64_t first, count;
  std::vector<int64_t> seen_;
  std::vector<Row> rows_;
  const int64_t room_;
  Buffer x_, normal_, qkv_, attended_, hidden_, parameters_, scores_;
};

static void draw(const Draw& draw, int64_t threads) {
  for_each_group(
      draw.tokens, threads, draw.network.multiply_adds(), [&](int64_t first, int64_t count) {
        Group group(draw, first, count);
        draw_group(draw.tokens, first, count, group);
      });
}

}  // namespace transformer_sampling

}  // namespace dgm::DGM_ISA
