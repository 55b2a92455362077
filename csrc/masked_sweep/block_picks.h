// Features made of their parameters by a thread, by the rules of `distributions` and of flows, and
// activations.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/block_draws.h"
#include "common/host_device.h"
#include "masked_sweep/step.h"

namespace dgm::masked_sweep {

using blocks::sigmoid;

DGM_HOST_DEVICE float activate(Activation activation, float x) {
  // Not one of the cases, which a GPU looks up in a table. A NaN stays.
  if (activation == Activation::relu) return x < 0.0f ? 0.0f : x;
  switch (activation) {
    case Activation::elu:
      return x > 0.0f ? x : expm1f(x);
    case Activation::gelu:
      return 0.5f * x * erfcf(x * -0.70710678f);
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::softplus:
      // As torch has it.
      return x > 20.0f ? x : log1pf(expf(x));
    case Activation::sigmoid:
      return sigmoid(x);
    default:
      return tanhf(x);
  }
}

// What overflows is nothing to those that come after it.
DGM_HOST_DEVICE float seen_of(const Step& step, float x) {
  return (fabsf(x) <= 0x1.fffffep+127f ? x : 0.0f) * step.scale + step.shift;
}

DGM_HOST_DEVICE float gaussian(const Step& step, float mean, float log_scale, float noise) {
  return mean + step.filters.temperature * expf(log_scale) * noise;
}

DGM_HOST_DEVICE float bernoulli(const Step& step, float logit, float u) {
  if (step.filters.temperature == 0.0f) return logit > 0.0f ? 1.0f : 0.0f;
  return u < sigmoid(logit / step.filters.temperature) ? 1.0f : 0.0f;
}

DGM_HOST_DEVICE float logistic(const Step& step, float mean, float log_scale, float u) {
  float x = mean;
  // Of no width, an infinity is none.
  if (step.filters.temperature > 0.0f) {
    const float lowest = step.lowest_log_scale;
    const float scale = expf(log_scale < lowest ? lowest : log_scale);
    x += step.filters.temperature * scale * logf(u / (1.0f - u));
  }
  const float top = static_cast<float>(step.levels - 1), place = (x + 1.0f) * (top / 2.0f);
  // A NaN stays.
  return nearbyintf(place < 0.0f ? 0.0f : place > top ? top : place);
}

DGM_HOST_DEVICE float affine(
    const Step& step, float unbounded, float shift, float y, float& log_slope) {
  const float log_scale = step.bound * tanhf(unbounded / step.bound);
  log_slope = step.standardize ? log_scale : -log_scale;
  return step.standardize ? y * expf(log_scale) + shift : (y - shift) * expf(-log_scale);
}

// How many logits choose a place: of categories, or of a mixture's components.
DGM_HOST_DEVICE int logits_of(const Step& step, int parameters) {
  if (step.kind == Kind::categorical) return parameters;
  return step.kind == Kind::gaussian_mixture ? parameters / 3 : 0;
}

// Whether one thread makes a feature, of one or two parameters.
DGM_HOST_DEVICE bool is_simple(Kind kind) {
  return kind == Kind::bernoulli || kind == Kind::logistic || kind == Kind::gaussian ||
         kind == Kind::affine;
}

// `q` is the second parameter where there are two.
DGM_HOST_DEVICE float make_simple(
    const Step& step, float p, float q, float noise, float& log_slope) {
  switch (step.kind) {
    case Kind::bernoulli:
      return bernoulli(step, p, noise);
    case Kind::logistic:
      return logistic(step, p, q, noise);
    case Kind::gaussian:
      return gaussian(step, p, q, noise);
    default:
      return affine(step, p, q, noise, log_slope);
  }
}

}  // namespace dgm::masked_sweep
