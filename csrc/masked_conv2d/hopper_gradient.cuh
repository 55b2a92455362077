// The gradient of a weight's live taps on Hopper: gradients of outputs times what each tap saw.
//
// A block goes over the pixels of a piece and adds up, in registers, the gradient of 64 outputs and
// TILE_C channels a warp group: of four taps above one another, of two and 128 outputs, or of one
// and 256. What the gradient and x have of a tile of 64 pixels comes to shared memory once for all
// four, a tap further down being the same pixels a row further on. Both matrices are summed over
// their rows, which are the pixels, so that nothing is turned around on the way.
#pragma once

#include "masked_conv2d/hopper_pixels.cuh"

namespace dgm::masked_conv2d {

constexpr int kAdding = 4;  // warp groups
constexpr int kGradientThreads = kGroup * (kAdding + 1);
// Registers of a thread that brings and of one that adds. Together they must be no more than the
// block begins with, 96 a thread, or threads would wait for them for ever.
constexpr int kBringersRegisters = 64, kAddersRegisters = 104;
static_assert(kAdding * kAddersRegisters + kBringersRegisters <= 96 * (kAdding + 1));
constexpr uint32_t kChunkBytes = kTilePixels * kRowBytes;  // of the outputs' gradient

// Of a column's pixels of a tile.
__device__ inline uint32_t column_bytes(const Grid& grid, const Column& column) {
  return kChunkBytes + (column.taps - 1) * grid.tile_w * kRowBytes;
}

__host__ inline uint32_t shared_bytes(const Gradient& g) {
  return kBarrierBytes + static_cast<uint32_t>(g.stages) * g.stage;
}

// What a block does.
struct Work {
  int together, chunk_o, chunk_c, piece, begin, end;  // the last two of the piece's tiles

  __device__ explicit Work(const Gradient& g, int chunks_c) {
    int rest = blockIdx.x;
    const int job = rest % g.jobs;
    rest /= g.jobs;
    chunk_c = rest % g.tiles_c * chunks_c;
    piece = rest / g.tiles_c;
    together = 0;
    while (together + 1 < g.togethers && g.together[together + 1].first <= job) ++together;
    const Together& taps = g.together[together];
    chunk_o = (job - taps.first) * (kAdding / taps.column.taps);
    const int64_t tiles = tiles_of(g.grid);
    begin = static_cast<int>(tiles * piece / g.count);
    end = static_cast<int>(tiles * (piece + 1) / g.count);
  }
};

// The shared memory of a block: barriers, and stages of both matrices, the outputs' gradient first.
struct Ring {
  uint32_t barriers;

  __device__ uint32_t full(int stage) const { return barriers + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return barriers + 8 * (kMostStages + stage); }
  __device__ uint32_t at(const Gradient& g, int stage) const {
    return barriers + kBarrierBytes + stage * g.stage;
  }
};

template <typename T, int TILE_C>
__device__ void bring_both(const Gradient& g, const Ring& ring, const Work& work, int own) {
  const Column& column = g.together[work.together].column;
  const int chunks_o = kAdding / column.taps, chunks_c = TILE_C / kChunk;
  const uint32_t of_column = column_bytes(g.grid, column);
  const int t = threadIdx.x % kWarp;
  Place place;
  for (int n = work.begin; n < work.end; ++n) {
    const Tile tile = tile_of(g.grid, n);
    hopper::wait(ring.empty(place.stage), place.parity ^ 1);
    const uint32_t stage = ring.at(g, place.stage);
    for (int i = own; i < chunks_o + chunks_c; i += kGroup / kWarp) {
      const bool of_x = i >= chunks_o;
      const int chunk = of_x ? work.chunk_c + i - chunks_o : work.chunk_o + i;
      const uint32_t to =
          of_x ? chunks_o * kChunkBytes + (i - chunks_o) * of_column : i * kChunkBytes;
      // Chosen number by number, which keeps them in registers.
      const Rows rows{of_x ? g.x.pointer : g.grad.pointer, of_x ? g.x.stride : g.grad.stride};
      const Column taps{of_x ? column.across : 0, of_x ? column.first : 0, of_x ? column.taps : 1};
      bring<T>({g.grid, rows, of_x ? g.channels : g.outs}, tile, taps, chunk, t, stage + to);
    }
    hopper::arrive_when_copied(ring.full(place.stage));
    place.advance(g.stages);
  }
}

template <typename T, int TILE_C>
__device__ void add_all(const Gradient& g, const Ring& ring, const Work& work, int group) {
  const Together& together = g.together[work.together];
  const int taps = together.column.taps, tap = group % taps, chunk = group / taps;
  const uint32_t of_grad = chunk * kChunkBytes, of_column = column_bytes(g.grid, together.column);
  const uint32_t of_x = kAdding / taps * kChunkBytes + tap * g.grid.tile_w * kRowBytes;
  float sums[TILE_C / 2] = {};
  Place place;
  for (int i = work.begin; i < work.end; ++i) {
    hopper::wait(ring.full(place.stage), place.parity);
    hopper::fence_products();
    hopper::begin_products();
    const uint32_t stage = ring.at(g, place.stage);
    const uint64_t a = hopper::turned_matrix_at(stage + of_grad, kChunkBytes);
    const uint64_t b = hopper::turned_matrix_at(stage + of_x, of_column);
#pragma unroll
    for (int k = 0; k < kTilePixels / 16; ++k) {
      hopper::multiply_turned<T, TILE_C>(sums, a + 128 * k, b + 128 * k);
    }
    hopper::end_products();
    hopper::wait_for_products();
    if (threadIdx.x % kWarp == 0) hopper::arrive(ring.empty(place.stage));
    place.advance(g.stages);
  }

  const int t = threadIdx.x % kGroup;
  const int64_t piece = static_cast<int64_t>(work.piece) * g.outs;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int out = (work.chunk_o + chunk) * kChunk + t / 32 * 16 + t % 32 / 4 + 8 * h;
    if (out >= g.outs) continue;
    float* to = g.pieces + ((piece + out) * g.taps + together.place[tap]) * g.channels;
#pragma unroll
    for (int j = 0; j < TILE_C / 8; ++j) {
      const int channel = work.chunk_c * kChunk + 8 * j + t % 4 * 2;
      if (channel >= g.channels) continue;
      *reinterpret_cast<float2*>(to + channel) =
          make_float2(sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]);
    }
  }
}

template <typename T, int TILE_C>
__global__ void __launch_bounds__(kGradientThreads, 1)
    gradient_kernel(const __grid_constant__ Gradient g) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char memory[];
  const Ring ring{hopper::shared_address(memory)};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < g.stages; ++stage) {
      hopper::init_barrier(ring.full(stage), kGroup);
      hopper::init_barrier(ring.empty(stage), kAdding * kGroup / kWarp);
    }
    hopper::fence_barriers();
  }
  __syncthreads();

  const Work work(g, TILE_C / kChunk);
  // From a warp's first thread, so that the compiler sees that a warp stays together.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / kWarp, 0);
  const int group = warp / (kGroup / kWarp), own = warp % (kGroup / kWarp);
  if (group < kAdding) {
    hopper::take_registers<kAddersRegisters>();
    add_all<T, TILE_C>(g, ring, work, group);
  } else {
    hopper::leave_registers<kBringersRegisters>();
    bring_both<T, TILE_C>(g, ring, work, own);
  }
#endif
}

}  // namespace dgm::masked_conv2d
