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

// The lowest logit of the nucleus; `heap` is scratch, of which the largest are taken one by one.
inline float edge_of_nucleus(const float* logits, int64_t count, double top_p, float* heap) {
  std::copy(logits, logits + count, heap);
  std::make_heap(heap, heap + count);
  const double most = heap[0];
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total += std::exp(logits[i] - most);

  double before = 0.0;
  for (int64_t left = count; left > 1; --left) {
    before += std::exp(heap[0] - most) / total;
    if (!(before < top_p)) break;
    std::pop_heap(heap, heap + left);
  }
  return heap[0];
}

// Turns logits into those of the values that may be drawn, minus infinity of the others. Where one
// is NaN or the largest infinite, the first value is drawn, whatever stays.
inline void filter(float* logits, int64_t count, const Filters& filters, float* scratch) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    if (filters.temperature != 0.0f) logits[i] /= filters.temperature;
    most = std::isnan(logits[i]) || std::isnan(most) ? NAN : std::max(most, logits[i]);
  }
  // Not in any order.
  if (!std::isfinite(most)) return;

  if (filters.temperature == 0.0f) drop_below(most, logits, count);
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
