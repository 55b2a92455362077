// Tokens drawn of a recurrent network; compiled once per instruction set, so without a guard.

#include "sequence_sampler/groups.h"

namespace dgm::DGM_ISA {

namespace recurrent_sampling {

using namespace sampling;
using dgm::recurrent_sampler::Draw;
using dgm::recurrent_sampler::Layer;
using dgm::recurrent_sampler::Network;
using dgm::recurrent_sampler::Sizes;

static void lstm_unit(const float* sums, int64_t units, float* state, float* cell) {
  for (int64_t i = 0; i < units; i += kLanes) {
    const auto gate_of = [&](int64_t gate) { return load(sums + gate * units + i); };
    const Vec kept = sigmoid(gate_of(1)) * load(cell + i);
    const Vec c = kept + sigmoid(gate_of(0)) * tanh(gate_of(2));
    store(cell + i, c);
    store(state + i, sigmoid(gate_of(3)) * tanh(c));
  }
}

static void gru_unit(const float* sums, int64_t units, float* state) {
  for (int64_t i = 0; i < units; i += kLanes) {
    const auto sum_of = [&](int64_t part) { return load(sums + part * units + i); };
    const Vec fresh = tanh(sum_of(0) + sigmoid(sum_of(1)) * sum_of(3));
    const Vec old = load(state + i);
    store(state + i, fresh + sigmoid(sum_of(2)) * (old - fresh));
  }
}

// Some sequences, which take in one input after another together.
class Group {
 public:
  Group(const Draw& draw, int64_t first, int64_t count)
      : net(draw.network),
        n(draw.network.sizes),
        first(first),
        count(count),
        units(draw.network.units()),
        inputs_(count * padded(n.inputs)),
        sums_(count * 4 * units),
        states_(n.layers * 2 * count * units),
        parameters_(count * padded(n.outputs)) {
    for_each_state([&](const float* kept, float* mine) {
      std::copy(kept, kept + n.width, mine);
      std::fill(mine + n.width, mine + units, 0.0f);
    });
  }

  void feed(const int64_t* inputs, int64_t fed) {
    std::vector<int64_t> now(count);
    for (int64_t i = 0; i + 1 < fed; ++i) {
      for (int64_t s = 0; s < count; ++s) now[s] = inputs[s * fed + i];
      take_in(now.data());
    }
  }

  Strip step(const int64_t* inputs) {
    take_in(inputs);
    const Strip parameters{parameters_.data(), padded(n.outputs)};
    for (int64_t s = 0; s < count; ++s) copy(net.head_bias, parameters.pitch, parameters.row(s));
    const Strip top = state(n.layers - 1);
    multiply(count, top, {net.head, n.width, parameters.pitch}, parameters, true);
    return parameters;
  }

  // Puts the states where the next call finds them.
  void finish() {
    for_each_state([&](float* kept, const float* mine) { std::copy(mine, mine + n.width, kept); });
  }

 private:
  Strip state(int64_t layer) const { return {states_.data() + layer * 2 * count * units, units}; }
  Strip cell(int64_t layer) const { return {state(layer).row(count), units}; }
  Strip sums() const { return {sums_.data(), 4 * units}; }

  // Calls f(kept, mine) for the states and cells of all layers and sequences.
  template <typename F>
  void for_each_state(const F& f) {
    for (int64_t l = 0; l < n.layers; ++l) {
      const Layer& layer = net.layers[l];
      for (int64_t s = 0; s < count; ++s) {
        const int64_t at = (first + s) * n.width;
        f(layer.state + at, state(l).row(s));
        if (net.lstm) f(layer.cell + at, cell(l).row(s));
      }
    }
  }

  void take_in(const int64_t* inputs) {
    begin(inputs);
    for (int64_t l = 0; l < n.layers; ++l) {
      const Layer& layer = net.layers[l];
      const int64_t width = net.gates() * units;
      if (l > 0) {
        for (int64_t s = 0; s < count; ++s) copy(layer.bias, 4 * units, sums().row(s));
        multiply(count, state(l - 1), {layer.input, n.width, width}, sums(), true);
      }
      // What a GRU takes from its input comes first, what it takes from its old state last.
      const Strip from_state{sums_.data() + 4 * units - width, 4 * units};
      multiply(count, state(l), {layer.hidden, n.width, width}, from_state, true);
      for (int64_t s = 0; s < count; ++s) {
        if (net.lstm) {
          lstm_unit(sums().row(s), units, state(l).row(s), cell(l).row(s));
        } else {
          gru_unit(sums().row(s), units, state(l).row(s));
        }
      }
    }
  }

  // The first layer's sums of its inputs, looked up or made.
  void begin(const int64_t* inputs) {
    const Layer& layer = net.layers[0];
    const int64_t floats = n.inputs == 0 ? 4 * units : padded(n.inputs);
    const Strip embedded{inputs_.data(), floats};
    for (int64_t s = 0; s < count; ++s) {
      const float* row = net.first + inputs[s] * floats;
      copy(row, floats, n.inputs == 0 ? sums().row(s) : embedded.row(s));
      if (n.inputs > 0) copy(layer.bias, 4 * units, sums().row(s));
    }
    if (n.inputs == 0) return;
    multiply(count, embedded, {layer.input, n.inputs, net.gates() * units}, sums(), true);
  }

  const Network& net;
  const Sizes& n;
  const int64_t first, count, units;
  Buffer inputs_, sums_, states_, parameters_;
};

static void draw(const Draw& draw, int64_t threads) {
  for_each_group(
      draw.tokens, threads, draw.network.multiply_adds(), [&](int64_t first, int64_t count) {
        Group group(draw, first, count);
        draw_group(draw.tokens, first, count, group);
        group.finish();
      });
}

}  // namespace recurrent_sampling

}  // namespace dgm::DGM_ISA
