// A sum over live taps as the Hopper kernel is told of it.
#pragma once

#include <cstdint>

namespace dgm::masked_conv2d {

constexpr int kMostColumns = 16;
constexpr int kMostTaps = 32;
constexpr int kChunk = 64;       // channels: 128 bytes
constexpr int kTilePixels = 64;  // of a warp group

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

struct Product {
  Rows x, residual, y, kept;
  const void* weight;  // as `pack_kernel` leaves it
  const void* bias;    // or null
  int samples, height, width;
  int channels;  // of x
  int outputs;   // of y; a gate is given twice as many
  int tiles_n;   // of outputs
  int columns;   // of taps
  int taps;
  int tile_w;      // of pixels, a power of 2
  int stages;      // of a warp group's pixels on their way
  int stage_rows;  // of pixels, of a stage
  Column column[kMostColumns];
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
