// The arithmetic of a group of tiles, in floats whatever the tensors hold. Compiled once per
// instruction set, so without a guard.

#include "rational_quadratic_spline/parameters.h"

namespace dgm::DGM_ISA {

// Columns transposed at a time; on AVX-512 two squares of eight lie side by side.
constexpr int kSquare = kLanes < 8 ? kLanes : 8;

// Tiles that take each step together: a step's chain of dependent operations is long, and those of
// two tiles fill each other's gaps. Four ask for more lines of parameters in one go than a core can
// wait for, and eight do not fit the first cache.
constexpr int kTiles = 2;
constexpr int kGroup = kTiles * kLanes;  // elements

struct Group {
  // Rows of a tile: its columns, one read before the slopes and one after, and what the last
  // square writes beyond its columns.
  explicit Group(const spline::Options& o)
      : options(o),
        scales(o),
        size((3 * o.bins + 2 + kSquare) * kLanes),
        memory((o.zuko ? 2 : 1) * kTiles * size) {}

  float* tile(int i) { return memory.data() + i * size; }
  // Derivatives of what is softly clipped in a tile.
  float* clips(int i) { return options.zuko ? tile(kTiles + i) : nullptr; }

  const spline::Options& options;
  const Scales scales;
  const int64_t size;
  Buffer memory;
  Bin bins[kTiles];
  Factors factors[kTiles];
  BinGradients by_bin[kTiles];
};

inline int tiles_of(int64_t count) {
  return static_cast<int>(std::min<int64_t>(kTiles, (count + kLanes - 1) / kLanes));
}

#define DGM_STEP static __attribute__((noinline, unused)) void

template <int kBins>
DGM_STEP constrain_shares_of(Group& group, int i) {
  const int64_t bins = kBins > 0 ? kBins : group.options.bins;
  float* const tile = group.tile(i);
  if (group.options.zuko) {
    clip_softly(tile, 2 * bins, 2.0f * group.scales.softness, group.clips(i));
  }
  group.factors[i].over_x = 1.0f / exponentials<kBins>(tile, bins);
  group.factors[i].over_y = 1.0f / exponentials<kBins>(tile + bins * kLanes, bins);
}

// Makes exponentials of tile i's widths and heights.
inline void constrain_shares(Group& group, int i) {
  group.options.bins == 8 ? constrain_shares_of<8>(group, i) : constrain_shares_of<0>(group, i);
}

template <int kBins, bool kGradients>
DGM_STEP find_bins_of(Group& group, const float* given, int tiles) {
  const spline::Options& o = group.options;
  for (int i = 0; i < tiles; ++i) {
    // What is beyond the bounds is in the outermost bins, where it would be at the bounds.
    group.bins[i] =
        find_bin<kBins>(o, group.scales, group.tile(i), group.factors[i], load(given + i * kLanes));
  }
  for (int i = 0; i < tiles; ++i)
    constrain_slopes<kGradients>(o, group.scales, group.bins[i], group.factors[i]);
}

// Finds the bins of elements `given` from exponentials.
template <bool kGradients>
inline void find_bins(Group& group, const float* given, int tiles) {
  group.options.bins == 8 ? find_bins_of<8, kGradients>(group, given, tiles)
                          : find_bins_of<0, kGradients>(group, given, tiles);
}

DGM_STEP map_group(Group& group, const float* given, int tiles, float* results, float* log_slopes) {
  for (int i = 0; i < tiles; ++i) {
    Vec log_slope;
    store(
        results + i * kLanes,
        map_in_bin(group.options, group.bins[i], load(given + i * kLanes), log_slope));
    store(log_slopes + i * kLanes, log_slope);
  }
}

// Writes gradients by what is given to grad_given, and keeps those by the ends of the bins.
DGM_STEP differentiate_bins(
    Group& group, const float* given, const float* grad_results, const float* grad_log_slopes,
    int tiles, float* grad_given) {
  for (int i = 0; i < tiles; ++i) {
    const int lane = i * kLanes;
    const Vec by_given = gradients_by_bin(
        group.options, group.bins[i], load(given + lane), load(grad_results + lane),
        load(grad_log_slopes + lane), group.by_bin[i]);
    store(grad_given + lane, by_given);
  }
}

template <int kBins>
DGM_STEP differentiate_parameters_of(Group& group, int tiles) {
  for (int i = 0; i < tiles; ++i) {
    gradients_of_parameters<kBins>(
        group.options, group.scales, group.bins[i], group.factors[i], group.by_bin[i],
        group.clips(i), group.tile(i));
  }
}

// Makes gradients of parameters of the tiles' exponentials.
inline void differentiate_parameters(Group& group, int tiles) {
  group.options.bins == 8 ? differentiate_parameters_of<8>(group, tiles)
                          : differentiate_parameters_of<0>(group, tiles);
}

}  // namespace dgm::DGM_ISA
