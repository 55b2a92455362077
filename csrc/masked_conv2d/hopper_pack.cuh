// The weight as the kernel reads it.
#pragma once

#include "masked_conv2d/hopper_pixels.cuh"

namespace dgm::masked_conv2d {

// Lays the live weights out as blocks read them, (tiles_n, taps, chunks, TILE_N, kChunk), swizzled,
// zeros where the mask is or nothing is; a thread has 8 of them.
template <typename T>
__global__ void pack_kernel(const __grid_constant__ Weight w, T* packed, int tile_n) {
  const int rows = w.after ? w.ins : w.outs, channels = w.after ? w.outs * w.parts : w.ins;
  const int chunks = (channels + kChunk - 1) / kChunk;
  int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= static_cast<int64_t>(w.tiles_n) * w.taps * chunks * tile_n * 8) return;

  const int piece = place % 8, n = (place /= 8) % tile_n, chunk = (place /= tile_n) % chunks;
  const int slot = (place /= chunks) % w.taps;
  const int64_t matrix = place * chunks + chunk;
  const int tile = place / w.taps, tap = w.tap[slot];
  // As `finish` reads them: thread n % 8 / 2 of four has neighbours.
  const int parts = w.after ? 1 : w.parts, own = tile_n / (4 * parts);
  const int part = parts == 2 ? n % 2 : 0;
  const int of_thread = parts == 2 ? n / 8 : n / 8 * 2 + n % 2;
  const int row = tile * 4 * own + of_thread / 8 * 32 + n % 8 / 2 * 8 + of_thread % 8;

  T values[8];
  const T* weight = static_cast<const T*>(w.pointer);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int channel = chunk * kChunk + piece * 8 + i;
    const int out = w.after ? channel : part * w.outs + row, in = w.after ? row : channel;
    const int to = out % w.outs / w.group_out, from = in / w.group_in;
    const bool live = tap != w.centre || from < to || (from == to && !w.strict);
    values[i] = T(0.0f);
    if (row < rows && channel < channels && live) {
      values[i] = weight
          [out * w.stride_out + in * w.stride_in + tap / w.kernel_w * w.stride_h +
           tap % w.kernel_w * w.stride_w];
    }
  }
  T* to = packed + matrix * tile_n * kChunk + hopper::swizzled(n, piece) / sizeof(T);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(values);
}

}  // namespace dgm::masked_conv2d
