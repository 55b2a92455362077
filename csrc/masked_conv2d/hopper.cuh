// The sum over live taps on Hopper, weights kept in shared memory.
//
// A block keeps the live weights of TILE_N outputs where the tensor cores read them, and goes over
// the pixels. Three warp groups multiply, each a tile of 64 pixels of its own, so that one keeps
// the tensor cores busy while others finish a tile or wait for pixels; a warp each brings these. It
// brings those of a column of taps, for 64 channels, once: a tap further down is the same pixels a
// row further on.
#pragma once

#include "masked_conv2d/hopper_outputs.cuh"
#include "masked_conv2d/hopper_pack.cuh"
#include "masked_conv2d/hopper_pixels.cuh"

namespace dgm::masked_conv2d {

template <typename T, int TILE_N, bool GATED>
__device__ void multiply_all(const Product& p, const Shared& shared, int ring) {
  const int chunks = (p.channels + kChunk - 1) / kChunk;
  const Share share(p);
  const uint32_t row = p.grid.tile_w * kRowBytes;
  const Part<T, TILE_N, GATED> part(p, blockIdx.x % p.tiles_n);
  float sums[TILE_N / 2];
  Place place;
  hopper::wait(shared.weights_came(), 0);

  for (int i = share.first(ring); i < share.tiles; i += share.step()) {
    bool add = false;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      int tap = 0;
      for (int c = 0; c < p.columns; ++c) {
        hopper::wait(shared.full(ring, place.stage), place.parity);
        hopper::fence_products();
        hopper::begin_products();
        const uint32_t pixels = shared.at(ring, place.stage, p.stages);
        for (int down = 0; down < p.column[c].taps; ++down, ++tap) {
          const uint64_t a = hopper::matrix_at(pixels + down * row);
          const uint64_t b =
              hopper::matrix_at(shared.weights + (tap * chunks + chunk) * TILE_N * kRowBytes);
#pragma unroll
          for (int k = 0; k < kChunk / 16; ++k) {
            hopper::multiply<T, TILE_N>(sums, a + 2 * k, b + 2 * k, add);
            add = true;
          }
        }
        hopper::end_products();
        hopper::wait_for_products();
        if (threadIdx.x % kWarp == 0) hopper::arrive(shared.empty(ring, place.stage));
        place.advance(p.stages);
      }
    }
    part.finish(p, sums, tile_of(p.grid, i));
  }
}

template <typename T, int TILE_N, bool GATED>
__global__ void __launch_bounds__(kThreads, 1) product_kernel(const __grid_constant__ Product p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char memory[];
  Shared shared;
  shared.barriers = hopper::shared_address(memory);
  shared.weights = shared.barriers + kBarrierBytes;
  shared.stages = shared.weights + weight_bytes(p.taps, p.channels, TILE_N);
  shared.bytes = stage_bytes(p);

  if (threadIdx.x == 0) {
    for (int ring = 0; ring < kMultiplying; ++ring) {
      for (int stage = 0; stage < p.stages; ++stage) {
        hopper::init_barrier(shared.full(ring, stage), kWarp);
        hopper::init_barrier(shared.empty(ring, stage), kGroup / kWarp);
      }
    }
    hopper::init_barrier(shared.weights_came(), 1);
    hopper::fence_barriers();
  }
  __syncthreads();

  // From a warp's first thread, so that the compiler sees that a warp stays together.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / kWarp, 0);
  const int group = warp / (kGroup / kWarp), own = warp % (kGroup / kWarp);
  if (group < kMultiplying) {
    hopper::take_registers<kManyRegisters>();
    multiply_all<T, TILE_N, GATED>(p, shared, group);
  } else {
    hopper::leave_registers<kFewRegisters>();
    if (own < kMultiplying) {
      bring_pixels<T>(p, shared, own);
    } else if (threadIdx.x % kWarp == 0) {
      bring_weights(p, shared, TILE_N);
    }
  }
#endif
}

}  // namespace dgm::masked_conv2d
