// Signals drawn level by level; compiled once per instruction set, so without a guard.

#include "wavenet_sampler/picks.h"

namespace dgm::DGM_ISA {

namespace sampling {

using dgm::wavenet_sampler::Draw;
using dgm::wavenet_sampler::Network;
using dgm::wavenet_sampler::Sizes;

// Some samples, which go through time together and share each load of a weight.
//
// What a layer saw long ago is known for several times ahead: of a few samples, products with taps
// that look back `ahead` times or more are made for that many times at once.
class Group {
 public:
  Group(const Draw& draw, int64_t first, int64_t count)
      : d(draw),
        net(draw.network),
        n(draw.network.sizes),
        first(first),
        count(count),
        ahead(std::max<int64_t>(1, Rows::kMost / count)),
        x_(count * n.channels),
        h_(count * ahead * net.condition()),
        z_(count * n.layers * n.gated),
        skips_(count * n.skips),
        head_(count * n.head),
        parameters_(count * n.parameters),
        scratch_(n.parameters) {}

  void run() {
    for (int64_t t = 0; t < d.steps; ++t) {
      if (t % ahead == 0) look_back(t, std::min(ahead, d.steps - t));
      go_up(t);
      if (d.given == nullptr) make_parameters();
      for (int64_t s = 0; s < count; ++s) {
        remember(s, d.given != nullptr ? d.given[at(s, t)] : draw_level(s, t));
      }
    }
  }

 private:
  int64_t slots(int64_t layer) const { return net.delay(layer, 0); }
  bool is_far(int64_t layer, int64_t tap) const {
    return tap < n.kernel - 1 && net.delay(layer, tap) >= ahead;
  }
  int64_t at(int64_t s, int64_t t) const { return (first + s) * d.steps + t; }

  float* x(int64_t s) const { return x_.data() + s * n.channels; }
  float* h(int64_t s, int64_t t, int64_t layer) const {
    return h_.data() + (s * ahead + t % ahead) * net.condition() + layer * 2 * n.gated;
  }
  float* z(int64_t s) const { return z_.data() + s * n.layers * n.gated; }
  float* skips(int64_t s) const { return skips_.data() + s * n.skips; }
  float* head(int64_t s) const { return head_.data() + s * n.head; }
  float* parameters(int64_t s) const { return parameters_.data() + s * n.parameters; }

  // Where a layer's input of `delay` before t lies.
  float* seen(int64_t s, int64_t layer, int64_t t, int64_t delay) const {
    const int64_t slot = (d.time + t + slots(layer) - delay) % slots(layer);
    return d.rings + (first + s) * d.ring + net.rings[layer] + slot * n.channels;
  }

  // What the gates of times [t, t + times) are given by their condition and by far taps.
  void look_back(int64_t t, int64_t times) {
    Rows rows;
    for (int64_t s = 0; s < count; ++s) {
      for (int64_t i = 0; i < times; ++i) {
        copy(d.condition + (first + s) * d.condition_step, net.condition(), h(s, t + i, 0));
        if (d.features != nullptr) {
          rows.add(d.features + at(s, t + i) * n.features, h(s, t + i, 0));
        }
      }
    }
    multiply(rows, net.features, n.features, net.condition());

    for (int64_t l = 0; l < n.layers; ++l) {
      for (int64_t tap = 0; is_far(l, tap); ++tap) {
        Rows before;
        for (int64_t s = 0; s < count; ++s) {
          for (int64_t i = 0; i < times; ++i) {
            before.add(seen(s, l, t + i, net.delay(l, tap)), h(s, t + i, l));
          }
        }
        multiply(before, net.past_of(l, tap), n.channels, 2 * n.gated);
      }
    }
  }

  // Each layer's z, from the first convolution on.
  void go_up(int64_t t) {
    for (int64_t s = 0; s < count; ++s) start(s);
    for (int64_t l = 0; l < n.layers; ++l) {
      for (int64_t tap = 0; tap < n.kernel - 1; ++tap) {
        if (is_far(l, tap)) continue;
        Rows before;
        for (int64_t s = 0; s < count; ++s) {
          before.add(seen(s, l, t, net.delay(l, tap)), h(s, t, l));
        }
        multiply(before, net.past_of(l, tap), n.channels, 2 * n.gated);
      }

      Rows present, gated;
      for (int64_t s = 0; s < count; ++s) {
        present.add(x(s), h(s, t, l));
        gated.add(z(s) + l * n.gated, x(s));
        // In the place of the oldest, which has been read.
        copy(x(s), n.channels, seen(s, l, t, 0));
      }
      multiply(present, net.present_of(l), n.channels, 2 * n.gated);
      for (int64_t s = 0; s < count; ++s) {
        const float *a = h(s, t, l), *b = a + n.gated;
        for (int64_t i = 0; i < n.gated; i += kLanes) {
          store(z(s) + l * n.gated + i, gate(load(a + i), load(b + i)));
        }
      }

      // Nothing sees the last residual.
      if (l + 1 == n.layers) break;
      for (int64_t s = 0; s < count; ++s) add(net.residual_bias + l * n.channels, n.channels, x(s));
      multiply(gated, net.residual_of(l), n.gated, n.channels);
    }
  }

  // The skips of all layers, and two maps more.
  void make_parameters() {
    Rows of_z, of_skips, of_head;
    for (int64_t s = 0; s < count; ++s) {
      copy(net.skip_bias, n.skips, skips(s));
      copy(net.head_bias, n.head, head(s));
      copy(net.last_bias, n.parameters, parameters(s));
      of_z.add(z(s), skips(s));
      of_skips.add(skips(s), head(s));
      of_head.add(head(s), parameters(s));
    }
    multiply(of_z, net.skip, n.layers * n.gated, n.skips);
    for (int64_t s = 0; s < count; ++s) relu(skips(s), n.skips);
    multiply(of_skips, net.head, n.skips, n.head);
    for (int64_t s = 0; s < count; ++s) relu(head(s), n.head);
    multiply(of_head, net.last, n.head, n.parameters);
  }

  // The first convolution, of levels that a one-hot input looks up and a scalar one multiplies.
  void start(int64_t s) {
    copy(net.first_bias, n.channels, x(s));
    const int64_t* recent = d.recent + (first + s) * n.first_kernel;
    for (int64_t tap = 0; tap < n.first_kernel; ++tap) {
      if (recent[tap] < 0) continue;
      const float* weight = net.first + tap * n.inputs * n.channels;
      if (n.inputs > 1) {
        add(weight + recent[tap] * n.channels, n.channels, x(s));
        continue;
      }
      const float half = static_cast<float>(d.output.levels - 1) / 2.0f;
      const Vec value = broadcast(static_cast<float>(recent[tap]) / half - 1.0f);
      for (int64_t i = 0; i < n.channels; i += kLanes) {
        store(x(s) + i, load(x(s) + i) + value * load(weight + i));
      }
    }
  }

  int64_t draw_level(int64_t s, int64_t t) {
    const Output& output = d.output;
    const int64_t level =
        pick(output, parameters(s), d.noise + at(s, t) * output.uniforms, scratch_.data());
    d.levels[at(s, t)] = level;
    for (int64_t i = 0; d.parameters != nullptr && i < output.outputs; ++i) {
      d.parameters[at(s, t) * output.outputs + i] = parameters(s)[i];
    }
    return level;
  }

  void remember(int64_t s, int64_t level) {
    int64_t* recent = d.recent + (first + s) * n.first_kernel;
    for (int64_t tap = 0; tap + 1 < n.first_kernel; ++tap) recent[tap] = recent[tap + 1];
    recent[n.first_kernel - 1] = level;
  }

  const Draw& d;
  const Network& net;
  const Sizes& n;
  const int64_t first, count, ahead;
  Buffer x_, h_, z_, skips_, head_, parameters_, scratch_;
};

static void draw(const Draw& draw, int64_t threads) {
  const Sizes& n = draw.network.sizes;
  const int64_t work = draw.samples * draw.steps * draw.network.link() * n.layers;
  run_groups(draw.samples, Rows::kMost, threads, work, [&](int64_t first, int64_t count) {
    Group(draw, first, count).run();
  });
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
