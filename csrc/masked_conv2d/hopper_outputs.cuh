// What becomes of a tile's sums: bias, residual, gate, and the way to memory.
#pragma once

#include <type_traits>

#include "masked_conv2d/hopper_pixels.cuh"

namespace dgm::masked_conv2d {

// Eight numbers of T in 16 bytes.
template <typename T>
struct Eight;

template <>
struct Eight<__nv_bfloat16> {
  using Two = __nv_bfloat162;
  static __device__ float2 widen(Two two) { return __bfloat1622float2(two); }
  static __device__ Two narrow(float a, float b) { return __floats2bfloat162_rn(a, b); }
};

template <>
struct Eight<__half> {
  using Two = __half2;
  static __device__ float2 widen(Two two) { return __half22float2(two); }
  static __device__ Two narrow(float a, float b) { return __floats2half2_rn(a, b); }
};

template <typename T>
__device__ inline uint4 load_16(const T* from) {
  return __ldg(reinterpret_cast<const uint4*>(from));
}

template <typename T>
__device__ inline void add(const uint4& raw, float (&values)[8]) {
  const auto* twos = reinterpret_cast<const typename Eight<T>::Two*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = Eight<T>::widen(twos[i]);
    values[2 * i] += two.x;
    values[2 * i + 1] += two.y;
  }
}

template <typename T>
__device__ inline void store(T* to, const float (&values)[8]) {
  uint4 raw;
  auto* twos = reinterpret_cast<typename Eight<T>::Two*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; ++i) twos[i] = Eight<T>::narrow(values[2 * i], values[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = raw;
}

// Powers of 2 and quotients to 2 units in the last place; what is too small to be normal is zero.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float over(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// tanh(a) sigmoid(b) = (1 - E) / ((1 + E) (1 + F)), E = exp(-2 |a|), F = exp(-b): one division.
__device__ inline float gate(float a, float b) {
  constexpr float kLog2E = 1.44269504f;
  const float s = 2.0f * fabsf(a), E = power_of_2(-kLog2E * s), F = power_of_2(-kLog2E * b);
  // Where E is near 1 the difference has few digits left; three terms have 1e-6 of them right.
  const float rise = s < 0.03f ? s - s * s * (0.5f - s * (1.0f / 6.0f)) : 1.0f - E;
  const float below = 1.0f + E;
  return copysignf(rise * over(below + below * F), a);
}

// What a thread's part of a tile is: of two pixels, pieces of 8 neighbouring outputs; four threads'
// are neighbours. Sum 4 j + 2 h + p is of output j and part p or, without a gate, of output 2 j +
// p.
template <typename T, int TILE_N, bool GATED>
struct Part {
  static constexpr int kOutputs = TILE_N / (GATED ? 8 : 4), kPieces = kOutputs / 8;
  static constexpr int kParts = GATED ? 2 : 1;
  int first;  // output
  float bias[TILE_N / 4];

  __device__ Part(const Product& p, int tile_n)
      : first(tile_n * 4 * kOutputs + static_cast<int>(threadIdx.x) % 4 * 8) {
#pragma unroll
    for (int i = 0; i < TILE_N / 4; ++i) {
      const int own = i / kParts, part = i % kParts;
      const int output = first + own / 8 * 32 + own % 8;
      const bool there = p.bias != nullptr && output < p.outputs;
      const T* from = static_cast<const T*>(p.bias) + output + part * p.outputs;
      bias[i] = there ? static_cast<float>(*from) : 0.0f;
    }
  }

  // What eight outputs of a pixel are before their gate.
  __device__ void gather(
      const float (&sums)[TILE_N / 2], int h, int piece, int part, float (&values)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int j = 8 * piece + i, place = GATED ? 2 * j + part : j;
      values[i] = sums[place / 2 * 4 + 2 * h + place % 2] + bias[place];
    }
  }

  // Writes a pixel's outputs.
  __device__ void finish(
      const Product& p, const float (&sums)[TILE_N / 2], int h, int64_t pixel) const {
    uint4 residual[kParts * kPieces];
    if (p.residual.pointer != nullptr) {
      const T* from = static_cast<const T*>(p.residual.pointer) + pixel * p.residual.stride + first;
#pragma unroll
      for (int i = 0; i < kParts * kPieces; ++i) {
        const int piece = i / kParts * 32;
        if (first + piece < p.outputs) residual[i] = load_16(from + piece + i % kParts * p.outputs);
      }
    }

#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int channel = first + 32 * piece;
      if (channel >= p.outputs) continue;
      float values[kParts][8];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        gather(sums, h, piece, part, values[part]);
        if (p.residual.pointer != nullptr) add<T>(residual[piece * kParts + part], values[part]);
        if (p.kept.pointer != nullptr) {
          T* kept = static_cast<T*>(p.kept.pointer) + pixel * p.kept.stride;
          store<T>(kept + channel + part * p.outputs, values[part]);
        }
      }
      if constexpr (GATED) {
#pragma unroll
        for (int i = 0; i < 8; ++i) values[0][i] = gate(values[0][i], values[1][i]);
      }
      store<T>(static_cast<T*>(p.y.pointer) + pixel * p.y.stride + channel, values[0]);
    }
  }

  // Writes a tile.
  __device__ void finish(
      const Product& p, const float (&sums)[TILE_N / 2], const Tile& tile) const {
    const int t = threadIdx.x % kGroup, width = p.grid.tile_w, shift = 31 - __clz(width);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int place = t / 32 * 16 + t % 32 / 4 + 8 * h;
      const int row = tile.row + (place >> shift), column = tile.column + (place & (width - 1));
      if (row < p.grid.height && column < p.grid.width) {
        finish(p, sums, h, tile.first + row * p.grid.width + column);
      }
    }
  }
};

}  // namespace dgm::masked_conv2d
