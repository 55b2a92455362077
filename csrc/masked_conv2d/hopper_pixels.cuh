// How pixels and weights come to a block's shared memory.
#pragma once

#include "common/hopper.cuh"
#include "masked_conv2d/hopper.h"

namespace dgm::masked_conv2d {

constexpr int kGroup = 128;      // threads of a warp group
constexpr int kMultiplying = 3;  // warp groups
constexpr int kThreads = kGroup * (kMultiplying + 1);
constexpr int kWarp = 32;
// Registers of a thread that brings and of one that multiplies: together all there are.
constexpr int kFewRegisters = 56, kManyRegisters = 152;
static_assert(kMultiplying * kManyRegisters + kFewRegisters <= 128 * (kMultiplying + 1));
constexpr int kRowBytes = 2 * kChunk;
constexpr int kMostStages = 4;
constexpr uint32_t kPiece = 32768;  // bytes of a bulk copy

// The rest of shared memory, in front of which barriers lie.
constexpr uint32_t kBarrierBytes = 1024;

__host__ __device__ inline uint32_t weight_bytes(int taps, int channels, int tile_n) {
  return static_cast<uint32_t>(taps) * ((channels + kChunk - 1) / kChunk) * tile_n * kRowBytes;
}

__host__ __device__ inline uint32_t stage_bytes(const Product& p) {
  return static_cast<uint32_t>(p.stage_rows) * p.grid.tile_w * kRowBytes;
}

__host__ __device__ inline uint32_t shared_bytes(const Product& p, int tile_n) {
  return kBarrierBytes + weight_bytes(p.taps, p.channels, tile_n) +
         kMultiplying * p.stages * stage_bytes(p);
}

struct Tile {
  int64_t first;  // the sample's first pixel
  int row, column;
};

__host__ __device__ inline int tiles_across(const Grid& g) {
  return (g.width + g.tile_w - 1) / g.tile_w;
}

__host__ __device__ inline int tiles_down(const Grid& g) {
  const int tile_h = kTilePixels / g.tile_w;
  return (g.height + tile_h - 1) / tile_h;
}

__host__ __device__ inline int tiles_of(const Grid& g) {
  return g.samples * tiles_across(g) * tiles_down(g);
}

__device__ inline Tile tile_of(const Grid& g, int tile) {
  const int across = tiles_across(g), of_sample = across * tiles_down(g);
  const int sample = tile / of_sample, place = tile % of_sample;
  return {
      static_cast<int64_t>(sample) * g.height * g.width, place / across * (kTilePixels / g.tile_w),
      place % across * g.tile_w};
}

// Where a warp group is in its ring of stages.
struct Place {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The shared memory of a block.
struct Shared {
  uint32_t barriers, weights, stages, bytes;  // of a stage

  __device__ uint32_t full(int ring, int stage) const {
    return barriers + 8 * (ring * kMostStages + stage);
  }
  __device__ uint32_t empty(int ring, int stage) const {
    return barriers + 8 * ((kMultiplying + ring) * kMostStages + stage);
  }
  __device__ uint32_t weights_came() const { return barriers + 16 * kMultiplying * kMostStages; }
  __device__ uint32_t at(int ring, int stage, int count) const {
    return stages + (ring * count + stage) * bytes;
  }
};

// Pixels that are brought: of a grid, with so many channels.
struct Source {
  const Grid& grid;
  Rows rows;
  int channels;
};

// Brings a column's pixels of a tile and a chunk of channels, 8 OCTETS a row; 8 threads of the warp
// bring a pixel at a time.
template <typename T, int OCTETS>
__device__ inline void bring(
    const Source& source, const Tile& tile, const Column& column, int chunk, int t,
    uint32_t stage) {
  constexpr int kAtOnce = kWarp / 8, kSteps = OCTETS * 8 / kAtOnce;
  const int lane = t / 8, piece = t % 8, channel = chunk * kChunk + piece * 8;
  const int col = tile.column + column.across + lane;
  const int width = source.grid.width, height = source.grid.height;
  unsigned there = 0;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const bool inside = static_cast<unsigned>(col + i * kAtOnce) < width;
    there |= static_cast<unsigned>(inside && channel < source.channels) << i;
  }

  const int stride = static_cast<int>(source.rows.stride), further = width * stride;
  const T* any = static_cast<const T*>(source.rows.pointer);
  int row = tile.row + column.first;
  const T* from = any + tile.first * source.rows.stride + (row * width + col) * stride + channel;
  uint32_t to = stage + hopper::swizzled(lane, piece);
  const int rows = kTilePixels / (8 * OCTETS) + column.taps - 1;

#pragma unroll 1
  for (int i = 0; i < rows; ++i) {
    const bool inside = static_cast<unsigned>(row) < height;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const bool copied = inside && (there >> j & 1);
      // Four pixels further on the swizzle swaps the halves of a row.
      const uint32_t place = (to ^ (j % 2 * 64)) + j * kAtOnce * kRowBytes;
      hopper::copy_16(place, copied ? from + j * kAtOnce * stride : any, copied);
    }
    ++row;
    from += further;
    to += OCTETS * 8 * kRowBytes;
  }
}

template <typename T>
__device__ inline void bring(
    const Source& source, const Tile& tile, const Column& column, int chunk, int t,
    uint32_t stage) {
  switch (source.grid.tile_w) {
    case 8:
      return bring<T, 1>(source, tile, column, chunk, t, stage);
    case 16:
      return bring<T, 2>(source, tile, column, chunk, t, stage);
    case 32:
      return bring<T, 4>(source, tile, column, chunk, t, stage);
    default:
      return bring<T, 8>(source, tile, column, chunk, t, stage);
  }
}

// A block's tiles, one for each warp group in turn.
struct Share {
  int block, blocks, tiles;

  __device__ explicit Share(const Product& p)
      : block(blockIdx.x / p.tiles_n), blocks(gridDim.x / p.tiles_n), tiles(tiles_of(p.grid)) {}
  // What is left over when all have had as many goes to first ones of different blocks.
  __device__ int first(int ring) const { return ring * blocks + block; }
  __device__ int step() const { return kMultiplying * blocks; }
};

__device__ inline void bring_weights(const Product& p, const Shared& shared, int tile_n) {
  const uint32_t bytes = weight_bytes(p.taps, p.channels, tile_n);
  const char* from =
      static_cast<const char*>(p.weight) + static_cast<int64_t>(blockIdx.x % p.tiles_n) * bytes;
  hopper::arrive_expecting(shared.weights_came(), bytes);
  for (uint32_t done = 0; done < bytes; done += kPiece) {
    hopper::copy_bulk(
        shared.weights + done, from + done, min(kPiece, bytes - done), shared.weights_came());
  }
}

template <typename T>
__device__ void bring_pixels(const Product& p, const Shared& shared, int ring) {
  const int chunks = (p.channels + kChunk - 1) / kChunk;
  const Share share(p);
  const Source source{p.grid, p.x, p.channels};
  Place place;
  for (int i = share.first(ring); i < share.tiles; i += share.step()) {
    const Tile tile = tile_of(p.grid, i);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int c = 0; c < p.columns; ++c) {
        hopper::wait(shared.empty(ring, place.stage), place.parity ^ 1);
        const uint32_t stage = shared.at(ring, place.stage, p.stages);
        bring<T>(source, tile, p.column[c], chunk, threadIdx.x % kWarp, stage);
        hopper::arrive_when_copied(shared.full(ring, place.stage));
        place.advance(p.stages);
      }
    }
  }
}

}  // namespace dgm::masked_conv2d
