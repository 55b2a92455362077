// Functions of what a pixel has; compiled once per instruction set, so without a guard.

#include "common/draws.h"

namespace dgm::DGM_ISA {

namespace pixel_sampling {

using namespace sampling;

DGM_INLINE Vec elu(Vec x) { return x > 0.0f ? x : expm1(x); }

// y may be x where both are of the same size. Halves and signs lie one after another.
static void map(int64_t kind, const float* x, int64_t floats, float* y) {
  const int64_t half = floats / 2;
  switch (kind) {
    case pixel_sampler::kRelu:
      for (int64_t i = 0; i < floats; i += kLanes) store(y + i, at_least(load(x + i), Vec{}));
      break;
    case pixel_sampler::kElu:
      for (int64_t i = 0; i < floats; i += kLanes) store(y + i, elu(load(x + i)));
      break;
    case pixel_sampler::kConcatElu:
      for (int64_t i = 0; i < floats; i += kLanes) {
        const Vec v = load(x + i);
        store(y + i, elu(v));
        store(y + floats + i, elu(-v));
      }
      break;
    case pixel_sampler::kGate:
      for (int64_t i = 0; i < half; i += kLanes) {
        store(y + i, gate(load(x + i), load(x + half + i)));
      }
      break;
    case pixel_sampler::kGlu:
      for (int64_t i = 0; i < half; i += kLanes) {
        store(y + i, load(x + i) * sigmoid(load(x + half + i)));
      }
  }
}

}  // namespace pixel_sampling

}  // namespace dgm::DGM_ISA
