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
//
// Of a team, the first member goes up the layers while the last adds up what they skip: each has
// half of the weights, which its own cache may hold where all would be too many. Where others want
// the processors, waits may take milliseconds: after some of them the first goes on alone.
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

  void run(const Member& member) {
    if (member.rank > 0) return follow(member);
    const int64_t t = lead(0, member);
    // All have met at the end of a step: the other is nowhere within one.
    gated_.reach(kLeft);
    lead(t, Member());
  }

 private:
  static constexpr int64_t kLeft = INT64_MAX;
  static constexpr int kALate = 32, kMostLate = 8 * kALate;

  // Draws from time t on, to the end or until a team was late too often; returns the time then.
  int64_t lead(int64_t t, const Member& member) {
    for (int late = 0; t < d.steps && late < kMostLate; ++t) {
      if (t % ahead == 0) look_back(t, std::min(ahead, d.steps - t));
      go_up(t, member.size > 1);
      if (d.given == nullptr) {
        if (member.size == 1) add_skips(0, n.layers);
        // Now and then a wait is long on any machine.
        const bool is_soon = make_parameters(member);
        late = is_soon ? std::max(0, late - 1) : late + kALate;
      }
      for (int64_t s = 0; s < count; ++s) {
        remember(s, d.given != nullptr ? d.given[at(s, t)] : draw_level(s, t));
      }
    }
    return t;
  }

  // Adds each layer's skips as soon as it is there, until the other is done or goes on alone.
  void follow(const Member& member) {
    for (int64_t t = 0; t < d.steps; ++t) {
      for (int64_t l = 0; l < n.layers; ++l) {
        gated_.wait_for(t * n.layers + l + 1);
        if (gated_.reached() == kLeft) return;
        add_skips(l, l + 1);
      }
      make_parameters(member);
    }
  }

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

  // Each layer's z, from the first convolution on; tells of each where another waits for it.
  void go_up(int64_t t, bool is_followed) {
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
      if (is_followed) gated_.reach(t * n.layers + l + 1);

      // Nothing sees the last residual.
      if (l + 1 == n.layers) break;
      for (int64_t s = 0; s < count; ++s) add(net.residual_bias + l * n.channels, n.channels, x(s));
      multiply(gated, net.residual_of(l), n.gated, n.channels);
    }
  }

  // What layers [begin, end) add to the skips, which the first begins and the last rectifies.
  void add_skips(int64_t begin, int64_t end) {
    Rows rows;
    for (int64_t s = 0; s < count; ++s) {
      if (begin == 0) copy(net.skip_bias, n.skips, skips(s));
      rows.add(z(s) + begin * n.gated, skips(s));
    }
    multiply(rows, net.skip + begin * n.gated * n.skips, (end - begin) * n.gated, n.skips);
    for (int64_t s = 0; s < count && end == n.layers; ++s) relu(skips(s), n.skips);
  }

  // Two maps from the skips on; returns whether the team was in time.
  bool make_parameters(const Member& member) {
    bool is_soon = member.wait();
    is_soon &= map(net.head, net.head_bias, skips_, n.skips, head_, n.head, true, member);
    is_soon &=
        map(net.last, net.last_bias, head_, n.head, parameters_, n.parameters, false, member);
    return is_soon;
  }

  // Members make some of the outputs each.
  bool map(
      const float* weight, const float* bias, const Buffer& from, int64_t ins, const Buffer& to,
      int64_t outs, bool is_rectified, const Member& member) {
    const Columns mine = Columns::of(outs, member.rank, member.size);
    Rows rows;
    for (int64_t s = 0; s < count; ++s) {
      float* sums = to.data() + s * outs;
      copy(bias + mine.begin, mine.count, sums + mine.begin);
      rows.add(from.data() + s * ins, sums);
    }
    multiply(rows, weight, ins, outs, mine);
    for (int64_t s = 0; s < count && is_rectified; ++s) relu(rows.sums[s] + mine.begin, mine.count);
    return member.wait();
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
    for (int64_t i = 0; d.parameters != nullptr && i < output.outputs; ++i) {
      d.parameters[at(s, t) * output.outputs + i] = parameters(s)[i];
    }
    const int64_t level =
        pick(output, parameters(s), d.noise.given + at(s, t) * d.noise.each, scratch_.data());
    d.levels[at(s, t)] = level;
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
  Progress gated_;  // in layers of all times
};

static void draw(const Draw& draw, int64_t threads) {
  if (is_for_a_team(draw, threads)) {
    Group group(draw, 0, draw.samples);
    run_team([&](const Member& member) { group.run(member); });
    return;
  }

  const Sizes& n = draw.network.sizes;
  const int64_t work = draw.samples * draw.steps * draw.network.link() * n.layers;
  run_groups(draw.samples, Rows::kMost, threads, work, [&](int64_t first, int64_t count) {
    Group(draw, first, count).run(Member());
  });
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
