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

// Weights within a stretch: a row for each unit they come from.
template <typename T>
struct Matrix {
  T* data;
  int pitch;

  DGM_HOST_DEVICE T* quad(int row, int i) const { return data + row * pitch + i * kQuad; }
};
using Weights = Matrix<const float>;

// A level in a step: the units that it finishes, and those of the level before that are new to it.
struct Stage {
  Span due, found;
  float* sums;
  int quads;
  const float* units;
  Weights weights;
};

// A number of a quad that stays in registers.
DGM_HOST_DEVICE float number(const Quad& quad, int i) {
  return i == 0 ? quad.of[0] : i == 1 ? quad.of[1] : i == 2 ? quad.of[2] : quad.of[3];
}

// Adds what the units found give to a quad of sums.
DGM_HOST_DEVICE void add_found(
    const float* units, const Weights& weights, const Span& found, int quad, Quad& sum) {
#pragma unroll 4
  for (int k = found.begin; k < found.end; ++k) {
    const Quad weight = blocks::load(weights.quad(k, quad));
#pragma unroll
    for (int j = 0; j < kQuad; ++j) sum.of[j] = fmaf(units[k], weight.of[j], sum.of[j]);
  }
}

}  // namespace dgm::masked_sweep
