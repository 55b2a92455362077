// One query's attention over places; compiled once per instruction set, so without a guard.
//
// Its sums depend on the number of places alone.

#include "sequence_sampler/groups.h"

namespace dgm::DGM_ISA {

namespace transformer_sampling {

using namespace sampling;
using dgm::transformer_sampler::kBlock;

constexpr int kBlockVectors = static_cast<int>(kBlock) / kLanes;

// The products of a query with the keys of N blocks.
template <int N>
static void score_blocks(
    const float* query, const float* keys, int64_t head, float scale, float* scores) {
  Vec sum[N * kBlockVectors] = {};
  for (int64_t i = 0; i < head; ++i) {
    const Vec q = broadcast(query[i]);
#pragma GCC unroll 8
    for (int j = 0; j < N * kBlockVectors; ++j) {
      const float* block = keys + j / kBlockVectors * head * kBlock;
      sum[j] += q * load(block + i * kBlock + j % kBlockVectors * kLanes);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < N * kBlockVectors; ++j) store(scores + j * kLanes, sum[j] * scale);
}

template <int N>
static void score(
    const float* query, const float* keys, int64_t head, float scale, int64_t blocks,
    float* scores) {
  for (; blocks >= N; blocks -= N, keys += N * head * kBlock, scores += N * kBlock) {
    score_blocks<N>(query, keys, head, scale, scores);
  }
  if constexpr (N > 1) score<N / 2>(query, keys, head, scale, blocks, scores);
}

// Turns scores into weights, and returns one over their sum.
static float exponentiate(float* scores, int64_t places) {
  const int64_t end = (places + kBlock - 1) / kBlock * kBlock;
  std::fill(scores + places, scores + end, -__builtin_inff());
  const Vec most = broadcast(largest(scores, end));
  Vec total = {};
  for (int64_t i = 0; i < end; i += kLanes) {
    const Vec e = exp(load(scores + i) - most);
    store(scores + i, e);
    total += e;
  }
  return 1.0f / sum(total);
}

// V vectors of the weighted sum of values, of which every fourth place has a chain of its own.
template <int V>
static void mix_vectors(
    const float* weights, const float* values, int64_t places, int64_t pitch, float over,
    float* out) {
  Vec sum[4][V] = {};
  const auto add_place = [&](int chain, int64_t place) __attribute__((always_inline)) {
    const Vec w = broadcast(weights[place]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sum[chain][v] += w * load(values + place * pitch + v * kLanes);
    }
  };
  int64_t place = 0;
  for (; place + 4 <= places; place += 4) {
    add_place(0, place);
    add_place(1, place + 1);
    add_place(2, place + 2);
    add_place(3, place + 3);
  }
  for (; place < places; ++place) add_place(0, place);
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    store(out + v * kLanes, ((sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v])) * over);
  }
}

template <int V>
static void mix(
    const float* weights, const float* values, int64_t places, int64_t pitch, float over,
    int64_t vectors, float* out) {
  for (; vectors >= V; vectors -= V, values += V * kLanes, out += V * kLanes) {
    mix_vectors<V>(weights, values, places, pitch, over, out);
  }
  if constexpr (V > 1) mix<V / 2>(weights, values, places, pitch, over, vectors, out);
}

// `scores` has room for whole blocks.
static void attend(
    const float* query, const float* keys, const float* values, int64_t head, int64_t places,
    float* scores, float* out) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head));
  const int64_t blocks = (places + kBlock - 1) / kBlock, pitch = padded(head);
  score<8 / kBlockVectors>(query, keys, head, scale, blocks, scores);
  const float over = exponentiate(scores, places);
  mix<kMany ? 4 : 2>(scores, values, places, pitch, over, pitch / kLanes, out);
}

}  // namespace transformer_sampling

}  // namespace dgm::DGM_ISA
