// What a step of a stretch adds to the sums of a level, four of them a thread at a time.
#pragma once

#include <cmath>

#include "common/block_products.h"
#include "common/host_device.h"

namespace dgm::masked_sweep {

using blocks::kQuad;
using blocks::Quad;

// Units of a stretch, counted from its first.
struct Span {
  int begin, end;
};

// Where a stretch has what an edge goes between, in floats from a sample's first: the units it
// comes from, the sums it goes to, how many quads of them, and where they go when they are
// finished.
struct alignas(16) Route {
  int found, sums, quads, units;
  const float* weights;
  int pitch;
};
constexpr int kRouteFloats = sizeof(Route) / sizeof(float);

// Units that a step has found, and a row of weights from each to the sums of a level.
struct Found {
  const float* units;
  int count;
  const float* weights;
  int pitch;

  DGM_HOST_DEVICE void add_to(Quad& sum, int quad) const {
    // Mostly one or two; of many, their weights are on their way together.
    constexpr int kTogether = 4;
    const float* row = weights + quad * kQuad;
    int k = 0;
#pragma unroll 1
    for (; k + kTogether <= count; k += kTogether, row += kTogether * pitch) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) add(units[k + i], row + i * pitch, sum);
    }
#pragma unroll 1
    for (; k < count; ++k, row += pitch) add(units[k], row, sum);
  }

 private:
  DGM_HOST_DEVICE static void add(float unit, const float* row, Quad& sum) {
    const Quad weight = blocks::load(row);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) sum.of[j] = fmaf(unit, weight.of[j], sum.of[j]);
  }
};

// A level in a step: what is new to it, the sums that it is added to, those that are due, and where
// these go when they are finished.
struct Stage {
  Found found;
  Span due;
  int quads;
  float *sums, *units;
};

// A number of a quad that stays in registers.
DGM_HOST_DEVICE float number(const Quad& quad, int i) {
  return i == 0 ? quad.of[0] : i == 1 ? quad.of[1] : i == 2 ? quad.of[2] : quad.of[3];
}

}  // namespace dgm::masked_sweep
