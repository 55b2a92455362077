// Sequences drawn by a block of threads, of any network: inputs, parameters and the draw.
//
// `Block` says which thread this is and how many there are, and waits for all of them: a block of a
// GPU's, or threads of a CPU, on which this is tested.
#pragma once

#include <cstdint>

#include "common/block_draws.h"
#include "common/block_noise.h"
#include "common/block_products.h"
#include "sequence_sampler/tokens.h"

namespace dgm::sequence_sampler {

using namespace blocks;

// Rows of a matrix, filled up with zeros to whole pieces.
DGM_HOST_DEVICE int64_t whole_rows(int64_t rows) { return (rows + kRows - 1) / kRows * kRows; }

// Gives places to what the threads of a block share, in floats from the beginning.
struct Places {
  int floats = 0;

  DGM_HOST_DEVICE int take(int64_t size) {
    const int begin = floats;
    floats += static_cast<int>((size + kQuad - 1) / kQuad * kQuad);
    return begin;
  }
};

// What a draw shares of any network; `partial` has room for `sums` of a sequence, those of a
// product's parts or exponentials of the logits.
struct DrawPlaces {
  int logits, partial, largest, totals, next;

  DGM_HOST_DEVICE DrawPlaces(Places& places, int64_t outputs, int64_t sums, int64_t sequences)
      : logits(places.take(sequences * padded(outputs))),
        partial(places.take(sequences * sums)),
        largest(places.take(sequences * kSegments)),
        totals(places.take(sequences * kSegments * 2)),
        next(places.take(sequences)) {}
};

// S sequences from `first` on, or as many as there are; the number of threads is a multiple of S. A
// thread has a sequence wherever there is no weight to share; where the last block has fewer than
// S, one sequence stands for those that are missing, and is not written. With `together`, so many
// places of a sequence, one after another, have the threads of as many sequences.
template <int S, typename Block>
class Sequences {
 public:
  DGM_HOST_DEVICE Sequences(
      const Tokens& tokens, const Block& block, int64_t first, const DrawPlaces& at,
      int together = 1)
      : thread(block.thread()),
        threads(block.threads()),
        team(threads / S),
        s(thread / team),
        lane(thread % team),
        offset(s % together),
        t(tokens),
        block(block),
        at_(at),
        sequence_(first + s / together) {}

  const int thread, threads, team, s, lane, offset;

  DGM_HOST_DEVICE bool is_there() const { return sequence_ < t.samples; }
  DGM_HOST_DEVICE int64_t sample() const { return is_there() ? sequence_ : t.samples - 1; }

  // How many inputs a sequence takes in, and whether parameters are wanted after one.
  DGM_HOST_DEVICE int64_t inputs() const { return t.fed - 1 + looks(); }
  DGM_HOST_DEVICE bool is_looked_at(int64_t input) const { return input >= t.unseen(); }

  DGM_HOST_DEVICE int64_t input(int64_t i) const {
    return i < t.fed ? t.inputs[sample() * t.fed + i] : *next();
  }

  // Draws the tokens after input i; `head` has made the sums of all logits but their bias, if any.
  DGM_HOST_DEVICE void draw(const Product<S>& head, const float* bias, int64_t input) const {
    const int64_t place = sample() * looks() + input + 1 - t.fed;
    const int count = static_cast<int>(t.outputs);
    block.sync();
    for (int i = lane; i < count; i += team) {
      const float logit = head.sum(bias == nullptr ? 0.0f : bias[i], s, i);
      logits()[i] = logit;
      if (t.parameters != nullptr && is_there()) t.parameters[place * count + i] = logit;
    }
    block.sync();
    if (!t.noise.is_there()) return;

    // Of temperature 0 and several likeliest, the uniform decides.
    const Softmax softmax{logits(), count, exponentials(), largest(), totals()};
    softmax.make(t.filters, lane, team, [&] { block.sync(); });
    if (lane == 0) {
      const int64_t token = token_at(input + 1 - t.fed);
      if (is_there()) t.drawn[place] = token;
      *next() = static_cast<int>(token);
    }
    block.sync();
  }

 private:
  DGM_HOST_DEVICE int64_t looks() const { return t.steps > 0 ? t.steps : 1; }

  DGM_HOST_DEVICE int64_t token_at(int64_t step) const {
    const int64_t place = sample() * looks() + step;
    if (t.given != nullptr && t.given[place] >= 0) return t.given[place];
    const float u = noise_at(t.noise, sample(), step, 0);
    return place_of(exponentials(), totals(), static_cast<int>(t.outputs), u);
  }

  DGM_HOST_DEVICE float* shared(int at) const { return block.shared() + at; }
  DGM_HOST_DEVICE float* of_logits(int at) const {
    return shared(at) + s * static_cast<int>(padded(t.outputs));
  }
  DGM_HOST_DEVICE float* logits() const { return of_logits(at_.logits); }
  DGM_HOST_DEVICE float* exponentials() const { return of_logits(at_.partial); }
  DGM_HOST_DEVICE float* largest() const { return shared(at_.largest) + s * kSegments; }
  DGM_HOST_DEVICE double* totals() const {
    return reinterpret_cast<double*>(shared(at_.totals)) + s * kSegments;
  }
  DGM_HOST_DEVICE int* next() const { return reinterpret_cast<int*>(shared(at_.next)) + s; }

  const Tokens& t;
  const Block& block;
  const DrawPlaces at_;
  const int64_t sequence_;
};

}  // namespace dgm::sequence_sampler
