// Sums over live taps, and a weight's gradient, as the Hopper kernels are told of them.
#pragma once

#include <cstdint>

namespace dgm::masked_conv2d {

constexpr int kMostColumns = 16;
constexpr int kMostTaps = 32;
constexpr int kChunk = 64;  // channels: 128 bytes
constexpr int kTilePixels = 64;

// Taps above one another: those of one column of the kernel that are live.
struct Column {
  int across;  // from the output's pixel to what it reads
  int first;   // the same of rows, of the first tap
  int taps;
};

// Pixels with their channels side by side, all of them one after another; or none.
struct Rows {
  void* pointer;
  int64_t stride;  // from pixel to pixel, in elements
};

// Images that are gone over in tiles of pixels.
struct Grid {
  int samples, height, width;
  int tile_w;  // of a tile, a power of 2
};

struct Product {
  Grid grid;
  Rows x, residual, y, kept;
  const void* weight;  // as `pack_kernel` leaves it
  const void* bias;    // or null
  int channels;        // of x
  int outputs;         // of y; a gate is given twice as many
  int tiles_n;         // of outputs
  int columns;         // of taps
  int taps;
  int stages;      // of a warp group's pixels on their way
  int stage_rows;  // of pixels, of a stage
  Column column[kMostColumns];
};

constexpr int kMostTogether = 4;

// Taps of a column whose gradients a block adds up together: 1, 2 or 4.
struct Together {
  Column column;
  int first;                 // of the blocks' jobs, that of their first outputs
  int place[kMostTogether];  // of each tap, in raster order
};

struct Gradient {
  Grid grid;
  Rows grad, x;
  float* pieces;  // (pieces, outs, taps, channels)
  int outs, channels, taps;
  int count;          // of pieces
  int jobs, tiles_c;  // of a piece
  int stages, stage;  // how many; bytes of one
  int togethers;
  Together together[kMostTaps];
};

// A weight (out, in, kernel) of any strides, and how its taps are ordered.
struct Weight {
  const void* pointer;
  int64_t stride_out, stride_in, stride_h, stride_w;
  int kernel_w;
  int outs, ins;  // of a part; a gate has two
  int parts;
  int group_out, group_in;  // channels of a group
  bool strict;              // whether a group does not see itself
  bool after;               // whether outputs are summed over, for an input's gradient
  int taps, tiles_n;
  int centre;              // its tap
  uint8_t tap[kMostTaps];  // in raster order, of each in the order of the columns
};

}  // namespace dgm::masked_conv2d
