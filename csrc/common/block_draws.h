// Places drawn by a block of threads from a softmax, by the rules of `distributions` as in draws.h.
//
// Logits are cut into segments, by their number alone; a thread has some of a sample's segments.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/filters.h"
#include "common/host_device.h"

namespace dgm::blocks {

DGM_HOST_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

constexpr int kSegments = 32;

struct Segment {
  int begin, end;

  DGM_HOST_DEVICE Segment(int count, int i) {
    const int length = (count + kSegments - 1) / kSegments;
    begin = i * length < count ? i * length : count;
    end = begin + length < count ? begin + length : count;
  }
};

DGM_HOST_DEVICE float largest_of(const float* logits, const Segment& segment) {
  float most = -INFINITY;
  for (int i = segment.begin; i < segment.end; ++i) most = fmaxf(most, logits[i]);
  return most;
}

// Leaves exp(logit / temperature), the largest's being 1, and returns the sum of the segment. Of
// temperature 0, those of the largest alone are not zero.
DGM_HOST_DEVICE double exponentials_of(
    const float* logits, const Segment& segment, const float* largest, float temperature,
    float* exponentials) {
  float most = largest[0];
  for (int i = 1; i < kSegments; ++i) most = fmaxf(most, largest[i]);
  const bool cold = temperature == 0.0f;
  const float divisor = cold ? 1.0f : temperature;
  most /= divisor;

  double sum = 0.0;
  for (int i = segment.begin; i < segment.end; ++i) {
    const float below = logits[i] / divisor - most;
    exponentials[i] = cold && below < 0.0f ? 0.0f : expf(below);
    sum += exponentials[i];
  }
  return sum;
}

// The lowest of a segment's logits that fewer than k of all are larger than, or infinity.
DGM_HOST_DEVICE float lowest_of_top_k(
    const float* logits, int count, const Segment& segment, int64_t k) {
  float lowest = INFINITY;
  for (int i = segment.begin; i < segment.end; ++i) {
    int larger = 0;
    for (int j = 0; j < count; ++j) larger += logits[j] > logits[i];
    if (larger < k) lowest = fminf(lowest, logits[i]);
  }
  return lowest;
}

// Likewise, that larger ones leave less than p of all probability.
DGM_HOST_DEVICE float lowest_of_nucleus(
    const float* logits, const float* exponentials, const double* sums, int count,
    const Segment& segment, double p) {
  double total = 0.0;
  for (int i = 0; i < kSegments; ++i) total += sums[i];

  float lowest = INFINITY;
  for (int i = segment.begin; i < segment.end; ++i) {
    double larger = 0.0;
    for (int j = 0; j < count; ++j) larger += logits[j] > logits[i] ? exponentials[j] : 0.0f;
    if (exponentials[i] > 0.0f && larger < p * total) lowest = fminf(lowest, logits[i]);
  }
  return lowest;
}

// Leaves a segment no exponential of a logit below the lowest of all that stay; returns its sum.
DGM_HOST_DEVICE double drop_below(
    const float* lowest, const float* logits, const Segment& segment, float* exponentials) {
  float edge = lowest[0];
  for (int i = 1; i < kSegments; ++i) edge = fminf(edge, lowest[i]);

  double sum = 0.0;
  for (int i = segment.begin; i < segment.end; ++i) {
    if (logits[i] < edge) exponentials[i] = 0.0f;
    sum += exponentials[i];
  }
  return sum;
}

// The place whose stretch of the cumulative softmax holds u.
DGM_HOST_DEVICE int place_of(const float* exponentials, const double* sums, int count, float u) {
  double total = 0.0;
  for (int i = 0; i < kSegments; ++i) total += sums[i];

  // Ends at or below the uniform are passed, whole segments first. Nothing is below a NaN.
  const double wanted = static_cast<double>(u) * total;
  double end = 0.0;
  int place = 0;
  for (int i = 0; i + 1 < kSegments; ++i) {
    const Segment segment(count, i);
    if (segment.end >= count || !(end + sums[i] <= wanted)) break;
    end += sums[i];
    place = segment.end;
  }
  // Rounding can leave the last end below the uniform, hence the last place is not passed.
  for (; place + 1 < count; ++place) {
    end += exponentials[place];
    if (!(end <= wanted)) break;
  }
  // Nor is it picked for that where its probability is zero.
  while (place > 0 && exponentials[place] == 0.0f) --place;
  return place;
}

// The first place of the largest.
DGM_HOST_DEVICE int place_of_largest(const float* logits, int count) {
  int place = 0;
  for (int i = 1; i < count; ++i) {
    if (logits[i] > logits[place]) place = i;
  }
  return place;
}

// m + T s ln(u / (1 - u)); a NaN stays.
DGM_HOST_DEVICE float logistic(
    float mean, float log_scale, float lowest_log_scale, float temperature, float u) {
  const float scale =
      temperature * expf(log_scale < lowest_log_scale ? lowest_log_scale : log_scale);
  // Of no width, an infinity is none.
  return mean + scale * fminf(fmaxf(logf(u / (1.0f - u)), -100.0f), 100.0f);
}

// What the threads of a sample share to draw one of `count` places.
struct Softmax {
  const float* logits;
  int count;
  float* exponentials;  // of each place
  float* edges;         // of each segment, its largest or lowest logit
  double* sums;         // of each segment

  // Leaves exponentials of the places that may be drawn: first of the k likeliest, then of the
  // nucleus. `wait` waits for all `threads` of the sample.
  template <typename Wait>
  DGM_HOST_DEVICE void make(const Filters& filters, int lane, int threads, const Wait& wait) const {
    for (int i = lane; i < kSegments; i += threads) {
      edges[i] = largest_of(logits, Segment(count, i));
    }
    wait();
    for (int i = lane; i < kSegments; i += threads) {
      sums[i] =
          exponentials_of(logits, Segment(count, i), edges, filters.temperature, exponentials);
    }
    wait();
    if (filters.temperature == 0.0f) return;
    if (filters.top_k > 0 && filters.top_k < count) {
      for (int i = lane; i < kSegments; i += threads) {
        edges[i] = lowest_of_top_k(logits, count, Segment(count, i), filters.top_k);
      }
      drop(lane, threads, wait);
    }
    if (filters.top_p < 1.0) {
      for (int i = lane; i < kSegments; i += threads) {
        edges[i] =
            lowest_of_nucleus(logits, exponentials, sums, count, Segment(count, i), filters.top_p);
      }
      drop(lane, threads, wait);
    }
  }

  // After `make`, by any thread.
  DGM_HOST_DEVICE int place(const Filters& filters, float u) const {
    return filters.temperature == 0.0f ? place_of_largest(logits, count)
                                       : place_of(exponentials, sums, count, u);
  }

 private:
  template <typename Wait>
  DGM_HOST_DEVICE void drop(int lane, int threads, const Wait& wait) const {
    wait();
    for (int i = lane; i < kSegments; i += threads) {
      sums[i] = drop_below(edges, logits, Segment(count, i), exponentials);
    }
    wait();
  }
};

}  // namespace dgm::blocks
