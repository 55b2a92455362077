// Some sequences of a recurrent network drawn by a block of threads, which take in one input after
// another together.
#pragma once

#include <cmath>
#include <cstdint>

#include "recurrent_sampler/problem.h"
#include "sequence_sampler/block.h"

namespace dgm::recurrent_sampler {

using namespace sequence_sampler;

// How the matrices are cut: of embeddings, of states, of the head. What a layer takes from the one
// below is a state, too.
struct Cuts {
  Cut inputs, states, head;

  DGM_HOST_DEVICE explicit Cuts(const Network& net)
      : inputs(whole_rows(net.sizes.inputs), net.gates() * net.units()),
        states(whole_rows(net.sizes.width), net.gates() * net.units()),
        head(whole_rows(net.sizes.width), padded(net.sizes.outputs)) {}

  // Of a sequence, the sums of parts: those of a layer's state lie before those of its input.
  DGM_HOST_DEVICE int64_t sums(const Sizes& n) const {
    const int64_t of_input = n.inputs > 0 ? sums_of(inputs) : 0;
    const int64_t of_layer_below = n.layers > 1 ? sums_of(states) : 0;
    return larger(sums_of(states) + larger(of_input, of_layer_below), sums_of(head));
  }
  DGM_HOST_DEVICE static int sums_of(const Cut& cut) { return cut.parts * cut.outs; }

 private:
  DGM_HOST_DEVICE static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
};

// What the threads of a block share, each thing at so many floats from the beginning.
struct Shared {
  Places places;
  int x, states, cells;
  DrawPlaces draw;

  DGM_HOST_DEVICE Shared(const Network& net, int64_t sequences)
      : x(places.take(sequences * padded(net.sizes.inputs))),
        states(places.take(sequences * net.sizes.layers * net.units())),
        cells(places.take(net.lstm ? sequences * net.sizes.layers * net.units() : 0)),
        draw(places, net.sizes.outputs, Cuts(net).sums(net.sizes), sequences) {}
};

inline int64_t shared_bytes(const Network& network, int64_t sequences) {
  return static_cast<int64_t>(sizeof(float)) * Shared(network, sequences).places.floats;
}

template <int S, typename Block>
class Group {
 public:
  DGM_HOST_DEVICE Group(const Draw& draw, const Block& block, int64_t first)
      : net(draw.network),
        n(draw.network.sizes),
        block(block),
        at_(net, S),
        all_(draw.tokens, block, first, at_.draw),
        units_(static_cast<int>(net.units())),
        layers_(static_cast<int>(n.layers)) {}

  DGM_HOST_DEVICE void run() {
    for_each_state([](float* kept, float& mine, bool is_unit) { mine = is_unit ? *kept : 0.0f; });
    block.sync();
    for (int64_t i = 0; i < all_.inputs(); ++i) {
      take_in(all_.input(i));
      if (all_.is_looked_at(i)) look(i);
    }
    if (!all_.is_there()) return;
    for_each_state([](float* kept, float& mine, bool is_unit) {
      if (is_unit) *kept = mine;
    });
  }

 private:
  DGM_HOST_DEVICE float* shared(int at) const { return block.shared() + at; }
  DGM_HOST_DEVICE float* x() const { return shared(at_.x); }
  // Of all sequences.
  DGM_HOST_DEVICE float* state(int layer) const { return shared(at_.states) + layer * S * units_; }
  DGM_HOST_DEVICE float* cell(int layer) const { return shared(at_.cells) + layer * S * units_; }

  DGM_HOST_DEVICE Product<S> product(const Cut& cut, int after_sums) const {
    float* partial = shared(at_.draw.partial) + S * after_sums;
    return {cut, all_.thread, all_.threads, partial};
  }

  // Calls f(kept, mine, is_unit) for the states and cells of this thread's sequence.
  template <typename F>
  DGM_HOST_DEVICE void for_each_state(const F& f) const {
    for (int l = 0; l < layers_; ++l) {
      for (int i = all_.lane; i < units_; i += all_.team) {
        const int64_t kept = all_.sample() * n.width + i;
        const int mine = all_.s * units_ + i;
        f(net.layers[l].state + kept, state(l)[mine], i < n.width);
        if (net.lstm) f(net.layers[l].cell + kept, cell(l)[mine], i < n.width);
      }
    }
  }

  // Weights of the next product set out before the threads wait for one another.
  DGM_HOST_DEVICE void take_in(int64_t symbol) {
    const Cuts cuts(net);
    const Product<S> of_state = product(cuts.states, 0);
    const int after = Cuts::sums_of(cuts.states);
    Chunk ahead = of_state.ahead(net.layers[0].hidden);
    if (n.inputs > 0) embed(symbol);
    for (int l = 0; l < layers_; ++l) {
      const Layer& layer = net.layers[l];
      const bool has_input = l > 0 || n.inputs > 0;
      const Product<S> of_input = product(l > 0 ? cuts.states : cuts.inputs, after);
      of_state.make(layer.hidden, ahead, state(l), units_);
      if (has_input) {
        const float* inputs = l > 0 ? state(l - 1) : x();
        const int step = l > 0 ? units_ : static_cast<int>(padded(n.inputs));
        of_input.make(layer.input, of_input.ahead(layer.input), inputs, step);
      }
      if (l + 1 < layers_) ahead = of_state.ahead(net.layers[l + 1].hidden);
      block.sync();

      const float* start = has_input ? layer.bias : row_of(symbol, 4 * units_);
      update(l, [&](int part, int i) {
        if (start == nullptr) return NAN;
        float sum = start[part * units_ + i];
        // What a GRU takes from its input comes first, what it takes from its old state last.
        const int place = part * units_ + i, old = net.lstm ? place : place - units_;
        if (has_input && part < net.gates()) sum = of_input.sum(sum, all_.s, place);
        return old < 0 ? sum : of_state.sum(sum, all_.s, old);
      });
      block.sync();
    }
  }

  // What the first layer knows of a symbol, or null where it is none: nobody looks at tokens that
  // lie on a GPU before they are given.
  DGM_HOST_DEVICE const float* row_of(int64_t symbol, int64_t floats) const {
    return symbol >= 0 && symbol < n.symbols ? net.first + symbol * floats : nullptr;
  }

  DGM_HOST_DEVICE void embed(int64_t symbol) const {
    const int width = static_cast<int>(padded(n.inputs));
    const float* row = row_of(symbol, width);
    for (int i = all_.lane; i < width; i += all_.team) {
      x()[all_.s * width + i] = row == nullptr ? NAN : row[i];
    }
    block.sync();
  }

  // The cell of a layer, given its sums.
  template <typename SumOf>
  DGM_HOST_DEVICE void update(int layer, const SumOf& sum_of) const {
    for (int i = all_.lane; i < units_; i += all_.team) {
      float sums[4];
#pragma unroll
      for (int part = 0; part < 4; ++part) sums[part] = sum_of(part, i);
      float& h = state(layer)[all_.s * units_ + i];
      if (net.lstm) {
        float& c = cell(layer)[all_.s * units_ + i];
        c = fmaf(sigmoid(sums[0]), tanhf(sums[2]), sigmoid(sums[1]) * c);
        h = sigmoid(sums[3]) * tanhf(c);
      } else {
        const float fresh = tanhf(fmaf(sigmoid(sums[1]), sums[3], sums[0]));
        h = fmaf(sigmoid(sums[2]), h - fresh, fresh);
      }
    }
  }

  DGM_HOST_DEVICE void look(int64_t input) const {
    const Product<S> head = product(Cuts(net).head, 0);
    head.make(net.head, head.ahead(net.head), state(layers_ - 1), units_);
    all_.draw(head, net.head_bias, input);
  }

  const Network& net;
  const Sizes& n;
  const Block& block;
  const Shared at_;
  const Sequences<S, Block> all_;
  const int units_, layers_;
};

}  // namespace dgm::recurrent_sampler
