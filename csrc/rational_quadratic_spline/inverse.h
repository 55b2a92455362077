// The inverse of one spline with linear tails, by one thread of a CPU or a GPU; the formulas are
// those of bin.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "rational_quadratic_spline/problem.h"

namespace dgm::spline {

// e^(u - the largest) of number i of K widths and then K heights.
DGM_HOST_DEVICE float exponential_of(const float* parameters, int bins, int i) {
  const float* all = parameters + (i < bins ? 0 : bins);
  float largest = all[0];
  for (int k = 1; k < bins; ++k) largest = fmaxf(largest, all[k]);
  return expf(parameters[i] - largest);
}

struct Ends {
  float x0, x1, y0, y1;
  int number;
};

// The bin that holds y, of the exponentials of widths and heights.
DGM_HOST_DEVICE Ends find_bin(const Options& o, const float* exponentials, float y) {
  const int bins = static_cast<int>(o.bins);
  const float *widths = exponentials, *heights = exponentials + bins;
  float width = 0.0f, height = 0.0f;
  for (int i = 0; i < bins; ++i) {
    width += widths[i];
    height += heights[i];
  }
  const float least = 2.0f * o.bound * o.min_bin;
  const float spread = 2.0f * o.bound * (1.0f - o.min_bin * static_cast<float>(bins));
  const float over_x = spread / width, over_y = spread / height;

  Ends found{};
  float low_x = -o.bound, low_y = -o.bound, sum_x = 0.0f, sum_y = 0.0f;
  for (int i = 0; i < bins; ++i) {
    float high_x = o.bound, high_y = o.bound;
    if (i + 1 < bins) {
      const float lift = static_cast<float>(i + 1) * least - o.bound;
      high_x = (sum_x += widths[i]) * over_x + lift;
      high_y = (sum_y += heights[i]) * over_y + lift;
    }
    if (i == 0 || y >= low_y) found = {low_x, high_x, low_y, high_y, i};
    low_x = high_x;
    low_y = high_y;
  }
  return found;
}

// ln(1 + e^u) and the least slope.
DGM_HOST_DEVICE float slope_of(const Options& o, float u) {
  return o.min_derivative + (fmaxf(u, 0.0f) + log1pf(expf(-fabsf(u))));
}

// Returns x of y, and log |dx/dy|; `slopes` are the K - 1 parameters of those at inner knots.
DGM_HOST_DEVICE float invert(
    const Options& o, const float* exponentials, const float* slopes, float y, float& log_slope) {
  log_slope = 0.0f;
  if (fabsf(y) > o.bound) return y;

  const Ends bin = find_bin(o, exponentials, y);
  const float d0 = bin.number == 0 ? 1.0f : slope_of(o, slopes[bin.number - 1]);
  const float d1 = bin.number + 1 == o.bins ? 1.0f : slope_of(o, slopes[bin.number]);
  const float w = bin.x1 - bin.x0, h = bin.y1 - bin.y0, s = h / w;
  const float rise = (y - bin.y0) / h, fall = (bin.y1 - y) / h;

  const float b = d0 * fall - d1 * rise;
  const float root = sqrtf(b * b + 4.0f * s * s * rise * fall);
  const float up = b >= 0.0f ? 2.0f * s * rise : root - b;
  const float down = b >= 0.0f ? root + b : 2.0f * s * fall;
  const float theta = up / (up + down), rest = down / (up + down), t = theta * rest;

  const float q = s / (s * (theta * theta + rest * rest) + (d0 + d1) * t);
  const float slope = (d1 * theta * theta + 2.0f * s * t + d0 * rest * rest) * q * q;
  log_slope = -logf(slope);
  return bin.x0 + theta * w;
}

}  // namespace dgm::spline
