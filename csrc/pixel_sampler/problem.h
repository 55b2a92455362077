// What the sampler of PixelCNNs is given: a network as tables, and the images to draw.
#pragma once

#include <cstdint>

#include "common/filters.h"
#include "common/host_device.h"
#include "common/noise.h"

namespace dgm::pixel_sampler {

enum Kind : int64_t { kAffine, kDraw, kRelu, kElu, kConcatElu, kGate, kGlu };
enum Where : int64_t { kInState, kInRow, kInPixel };

// Rows of the tables, of int64_t as they are given; a block of a GPU's threads copies them as int.

// Where a value is kept: (rows, columns, floats), the image's row r in row r / stride % rows. It
// exists at the pixels whose row and column are multiples of the stride, a power of two.
template <typename Int>
struct PlaceOf {
  Int floats, depth;  // of a pixel, padded to whole vectors; up to the last that is not padding
  Int shift;          // the stride's logarithm
  Int rows, columns, where, offset;

  DGM_HOST_DEVICE Int stride() const { return Int{1} << shift; }
  DGM_HOST_DEVICE bool has(Int place) const { return (place & (stride() - 1)) == 0; }
  // Which of its rows the image's row lies in.
  DGM_HOST_DEVICE Int slot(Int row) const { return rows == 1 ? 0 : (row >> shift) % rows; }
};

// A product with a value so many rows down and columns right: where its matrix (depth, floats of
// the result) lies among the weights, and the first of its pieces of `kRows` rows. One more tap, of
// nothing, ends the table.
template <typename Int>
struct TapOf {
  Int source, down, right, matrix, piece;
};

// A step. Taps [above, above_end) are known before a row is begun, [own, own_end) are not.
template <typename Int>
struct WorkOf {
  Int kind, then;  // of an affine step, what all of it goes through, or `kAffine`
  Int group;       // how many draws of its pixel it waits for
  Int out, source, add, bias;
  Int above, above_end, own, own_end;
  Int ahead;     // depends on rows above alone
  Int for_draw;  // only draws of its pixel depend on it, or it is one

  DGM_HOST_DEVICE bool begun() const { return above < above_end; }
};

using Place = PlaceOf<int64_t>;
using Tap = TapOf<int64_t>;
using Work = WorkOf<int64_t>;

struct Sizes {
  int64_t row, pixel;  // floats of a sample's values that are kept for a row, and for a pixel
  int64_t values, steps, taps;
  int64_t turns;       // steps that are not ahead
  int64_t above;       // taps of all steps that are known before a row, which come first
  int64_t most_above;  // of one step
  // Of a sample, the most sums of parts that a product of a block leaves, or parameters: with own
  // taps, and with those known before.
  int64_t own_sums, above_sums;
};

struct Network {
  const Place* places;
  const Work* works;  // layer by layer
  const Tap* taps;
  const float* weights;
  Sizes sizes;
  int64_t draws;  // of a pixel
};

enum class Distribution { bernoulli, categorical, mixture };

// How `at_once` channels are drawn of `outputs` parameters.
struct Output {
  Distribution distribution;
  int64_t outputs, at_once, levels;
  bool ones;        // whether the network sees a channel of ones behind those
  Filters filters;  // of categorical levels; of others the temperature alone
  float lowest_log_scale;
};

struct Draw {
  Network network;
  Output output;
  int64_t samples, height, width, done, last;  // rows [done, last) are drawn
  float* images;                               // (samples, draws at_once, height, width), levels
  float* rows;                                 // (samples, state)
  int64_t state;
  const bool* given;       // (samples, height, width)
  Noise noise;             // (samples, height width draws, uniforms)
  const float* condition;  // of each sample, or of all
  int64_t condition_step;
  float* parameters;  // (samples, height width draws, outputs), or null
  int64_t multiply_adds;
  float* row_values = nullptr;  // of a GPU: (samples, row), what is kept for a row
};

}  // namespace dgm::pixel_sampler
