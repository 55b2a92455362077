// What the sampler of PixelCNNs is given: a network as tables, and the images to draw.
#pragma once

#include <cstdint>

namespace dgm::pixel_sampler {

enum Kind : int64_t { kAffine, kDraw, kRelu, kElu, kConcatElu, kGate, kGlu };
enum Where : int64_t { kInState, kInRow, kInPixel };

// Where a value is kept: (rows, columns, floats), the image's row r in row r / stride % rows. It
// exists at the pixels whose row and column are multiples of the stride, a power of two.
struct Place {
  int64_t floats, depth;  // of a pixel, padded to whole vectors; up to the last that is not padding
  int64_t stride, rows, columns, where, offset;

  bool has(int64_t place) const { return (place & (stride - 1)) == 0; }
};

// A product with a value so many rows down and columns right: where its matrix (depth, floats of
// the result) lies among the weights.
struct Tap {
  int64_t source, down, right, matrix;
};

// A step. Taps [first, own) are known before a row is begun, [own, end) are not.
struct Work {
  int64_t kind, then;  // of an affine step, what all of it goes through, or `kAffine`
  int64_t group;       // how many draws of its pixel it waits for
  int64_t out, source, add, bias;
  int64_t first, own, end;
  int64_t ahead;     // depends on rows above alone
  int64_t for_draw;  // only draws of its pixel depend on it, or it is one
};

struct Network {
  const Place* places;
  const Work* works;  // layer by layer
  const Tap* taps;
  const float* weights;
  int64_t values, steps, draws;  // draws of a pixel
};

enum class Distribution { bernoulli, categorical, mixture };

// How `at_once` channels are drawn of `outputs` parameters.
struct Output {
  Distribution distribution;
  int64_t outputs, at_once, levels, uniforms;
  bool ones;  // whether the network sees a channel of ones behind those
  float temperature, lowest_log_scale;
};

struct Draw {
  Network network;
  Output output;
  int64_t samples, height, width, done, last;  // rows [done, last) are drawn
  float* images;                               // (samples, draws at_once, height, width), levels
  float* rows;                                 // (samples, state)
  int64_t state;
  const bool* given;       // (samples, height, width)
  const float* noise;      // (samples, height width draws, uniforms)
  const float* condition;  // of each sample, or of all
  int64_t condition_step;
  float* parameters;  // (samples, height width draws, outputs), or null
  int64_t multiply_adds;
};

}  // namespace dgm::pixel_sampler
