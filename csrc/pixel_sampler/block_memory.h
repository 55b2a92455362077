// What the threads of a block share, and how many images they draw together.
#pragma once

#include <cstdint>

#include "common/block_draws.h"
#include "common/block_products.h"
#include "pixel_sampler/problem.h"

namespace dgm::pixel_sampler {

using namespace blocks;

// Columns of images that go together through what is known of a row before it is begun.
constexpr int kPairs = 8;

// A step of a pixel that is drawn, with what has to be known of it at once.
struct alignas(16) Turn {
  int work, kind, stride;
  int for_draw;     // only the draw itself depends on it
  int own, matrix;  // its own taps and all of their matrices, one under another
  Cut cut;
  float per_out;
};

DGM_HOST_DEVICE Turn turn_of(const Network& net, int step) {
  const Work& w = net.works[step];
  const Place& out = net.places[w.out];
  const Tap& first = net.taps[w.own];
  const Cut cut((net.taps[w.own_end].piece - first.piece) * kRows, out.floats);
  return {
      step,
      static_cast<int>(w.kind),
      static_cast<int>(out.stride()),
      static_cast<int>(w.for_draw && w.kind != kDraw),
      static_cast<int>(w.own),
      static_cast<int>(first.matrix),
      cut,
      1.0f / static_cast<float>(cut.outs)};
}

// Turns are those of a pixel's first draw, layer by layer, then those of its second, ...
DGM_HOST_DEVICE int place_of_turn(const Network& net, int step) {
  int before = 0;
  for (int i = 0; i < net.sizes.steps; ++i) {
    const int64_t group = net.works[i].group, own = net.works[step].group;
    before += !net.works[i].ahead && (group < own || (group == own && i < step));
  }
  return before;
}

// Where a step finds what it starts from and what it adds, or null, and where its value goes.
struct Spots {
  const float *from, *add;
  float* out;
};

// Each thing at so many floats from the beginning.
struct Shared {
  int places, works, taps, turns, zeros, values, partial, spots, seen, largest, totals, floats;

  DGM_HOST_DEVICE Shared(const Sizes& n, int64_t images) : floats(0) {
    places = take<PlaceOf<int>>(n.values);
    works = take<WorkOf<int>>(n.steps);
    taps = take<TapOf<int>>(n.taps + 1);
    turns = take<Turn>(n.turns);
    zeros = take<float>(kRows);
    values = take<float>(images * n.pixel);
    partial = take<float>(larger(images * n.own_sums, kPairs * n.above_sums));
    spots = take<Spots>(larger(images * n.turns, kPairs));
    seen = take<const float*>(larger(images * (n.taps - n.above), kPairs * n.most_above));
    largest = take<float>(images * kSegments);
    totals = take<double>(images * kSegments);
  }

 private:
  template <typename T>
  DGM_HOST_DEVICE int take(int64_t count) {
    const int begin = floats;
    const int64_t size = count * static_cast<int64_t>(sizeof(T) / sizeof(float));
    floats += static_cast<int>((size + kQuad - 1) / kQuad * kQuad);
    return begin;
  }

  DGM_HOST_DEVICE static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
};

inline int64_t shared_bytes(const Sizes& sizes, int64_t images) {
  return static_cast<int64_t>(sizeof(float)) * Shared(sizes, images).floats;
}

}  // namespace dgm::pixel_sampler
