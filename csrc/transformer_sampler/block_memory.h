// What the threads of a block share, and how many sequences they draw together.
#pragma once

#include <cstdint>

#include "sequence_sampler/block.h"
#include "transformer_sampler/problem.h"

namespace dgm::transformer_sampler {

using namespace sequence_sampler;

// A sum over channels or places is made in so many parts, part j of those at j, j + kParts, ...
constexpr int kParts = 16;

// The products on an input's way up: four a layer, and the head.
enum Map { kQkv, kOut, kUp, kDown, kHead };
constexpr int kMapsOfLayer = 4;

// How the matrix of a map is cut.
DGM_HOST_DEVICE Cut cut_of(const Sizes& n, int map) {
  const int64_t width = padded(n.width);
  int64_t ins = n.width, outs = padded(n.outputs);
  if (map == kQkv) outs = 3 * n.channels();
  if (map == kUp) outs = padded(n.hidden);
  if (map == kOut) ins = n.channels(), outs = width;
  if (map == kDown) ins = n.hidden, outs = width;
  return {whole_rows(ins), outs};
}

// Of a sequence, the most sums of parts that a product leaves, or the mixture of values.
DGM_HOST_DEVICE int64_t most_sums(const Sizes& n) {
  int64_t most = kParts * n.channels();
  for (int map = kQkv; map <= kHead; ++map) {
    const Cut cut = cut_of(n, map);
    if (cut.parts * cut.outs > most) most = cut.parts * cut.outs;
  }
  return most;
}

// Each thing at so many floats from the beginning.
struct Shared {
  Places places;
  int x, normal, moments;           // what goes up, the same normalized, sums of its parts
  int heads, scores, most, totals;  // queries, then mixtures; of each head weights of the places
  int hidden;
  DrawPlaces draw;

  DGM_HOST_DEVICE Shared(const Sizes& n, int64_t sequences)
      : x(places.take(sequences * padded(n.width))),
        normal(places.take(sequences * padded(n.width))),
        moments(places.take(sequences * 2 * kParts)),
        heads(places.take(sequences * n.channels())),
        scores(places.take(sequences * n.heads * n.places)),
        most(places.take(sequences * n.heads * kParts)),
        totals(places.take(sequences * n.heads * kParts)),
        hidden(places.take(sequences * padded(n.hidden))),
        draw(places, n.outputs, most_sums(n), sequences) {}
};

inline int64_t shared_bytes(const Sizes& sizes, int64_t sequences) {
  return static_cast<int64_t>(sizeof(float)) * Shared(sizes, sequences).places.floats;
}

}  // namespace dgm::transformer_sampler
