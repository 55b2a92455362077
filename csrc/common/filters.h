// Which of many values may be drawn, as `filter_logits` says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>

#include "common/host_device.h"

namespace dgm {

// top_k is 0 and top_p is 1 where all may.
struct Filters {
  float temperature;
  int64_t top_k;
  double top_p;

  DGM_HOST_DEVICE bool leave_out(int64_t count) const {
    return (top_k > 0 && top_k < count) || top_p < 1.0;
  }
};

inline void drop_below(float lowest, float* logits, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (logits[i] < lowest) logits[i] = -std::numeric_limits<float>::infinity();
  }
}

// The lowest logit of the nucleus; `sorted` is scratch.
inline float edge_of_nucleus(const float* logits, int64_t count, double top_p, float* sorted) {
  std::copy(logits, logits + count, sorted);
  std::sort(sorted, sorted + count, std::greater<float>());
  const auto weight = [&](int64_t i) {
    return std::exp(static_cast<double>(sorted[i]) - static_cast<double>(sorted[0]));
  };
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += weight(i);

  double before = 0.0;
  int64_t last = 0;
  for (; last + 1 < count; ++last) {
    before += weight(last) / total;
    if (!(before < top_p)) break;
  }
  return sorted[last];
}

// Turns logits into those of the values that may be drawn, minus infinity of the others; where one
// is NaN or the largest infinite, all stay as they are. `scratch` has room for all.
inline void filter(float* logits, int64_t count, const Filters& filters, float* scratch) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) return;
    most = std::max(most, logits[i]);
  }
  if (std::isinf(most)) return;
  if (filters.temperature == 0.0f) return drop_below(most, logits, count);

  for (int64_t i = 0; i < count; ++i) logits[i] /= filters.temperature;
  if (filters.top_k > 0 && filters.top_k < count) {
    std::copy(logits, logits + count, scratch);
    float* kth = scratch + filters.top_k - 1;
    std::nth_element(scratch, kth, scratch + count, std::greater<float>());
    drop_below(*kth, logits, count);
  }
  if (filters.top_p < 1.0) {
    drop_below(edge_of_nucleus(logits, count, filters.top_p, scratch), logits, count);
  }
}

}  // namespace dgm
