// Components as the kernels read them; compiled once per instruction set, so without a guard.

#include "common/math.h"

namespace dgm::DGM_ISA {

using dgm::gaussian_mixture_log_prob::Backward;
using dgm::gaussian_mixture_log_prob::Forward;
using dgm::gaussian_mixture_log_prob::Matrix;

DGM_INLINE int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Reads `count` numbers of a row into whole vectors, `filler` beyond them.
template <typename T>
DGM_INLINE void read_row(
    const Matrix<T>& matrix, int64_t row, int64_t count, float filler, float* to) {
  const T* from = matrix.data + row * matrix.row_stride;
  int64_t i = 0;
  if (matrix.column_stride == 1) {
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  }
  for (; i < count; ++i) to[i] = static_cast<float>(from[i * matrix.column_stride]);
  for (; i % kLanes != 0; ++i) to[i] = filler;
}

// Means and precisions twice: by groups of kLanes components, [group][dim][mean or
// precision][lane], for sums over dims; and by component, [component][vector of dims][mean or
// precision][lane], for sums over components, where the backward asks for it. Beyond the last dim a
// precision is zero; beyond the last component the constant is -infinity, a weight of zero.
class Components {
 public:
  template <typename T>
  Components(const Forward<T>& p, bool by_component)
      : components_(p.components),
        dims_(p.dims),
        groups_(tiles(p.components, kPair * kLanes) * kPair),
        vectors_(tiles(p.dims, kLanes)),
        constants_(groups_ * kLanes),
        by_group_(groups_ * dims_ * 2 * kLanes),
        has_by_component_(by_component),
        by_component_(by_component ? components_ * vectors_ * 2 * kLanes : 0) {
    run_tasks(groups_, components_ * dims_ * 8, [&](int64_t group) { pack(p, group); });
  }

  static constexpr int kPair = 2;  // groups that a tile takes at a time

  int64_t groups() const { return groups_; }
  int64_t vectors() const { return vectors_; }
  const float* group(int64_t i) { return by_group_.data() + i * dims_ * 2 * kLanes; }
  const float* component(int64_t i) { return by_component_.data() + i * vectors_ * 2 * kLanes; }
  const float* constants() { return constants_.data(); }

 private:
  // log N's constant, log weight - 1/2 sum (log_var + log 2 pi), and the exponentials.
  template <typename T>
  void pack(const Forward<T>& p, int64_t group) {
    constexpr float kLogTwoPi = 1.837877066f;
    const int64_t padded = vectors_ * kLanes;
    Buffer means(kLanes * padded), log_vars(kLanes * padded);
    float constants[kLanes];

    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t k = group * kLanes + lane;
      constants[lane] = -__builtin_inff();
      if (k < components_) {
        const T weight = p.log_weights.data[k * p.log_weights.row_stride];
        constants[lane] = static_cast<float>(weight);
      }
      // A row that is not there repeats the last one.
      const int64_t row = std::min(k, components_ - 1);
      read_row(p.means, row, dims_, 0.0f, means.data() + lane * padded);
      read_row(p.log_vars, row, dims_, __builtin_inff(), log_vars.data() + lane * padded);
    }

    Vec sum{};
    for (int64_t d0 = 0; d0 < padded; d0 += kLanes) {
      Vec mean[kLanes], log_var[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        mean[lane] = load(means.data() + lane * padded + d0);
        log_var[lane] = load(log_vars.data() + lane * padded + d0);
        const int64_t k = group * kLanes + lane;
        if (has_by_component_ && k < components_) {
          float* place = by_component_.data() + (k * padded + d0) * 2;
          store(place, mean[lane]);
          store(place + kLanes, exp(-log_var[lane]));
        }
      }

      transpose(mean);
      transpose(log_var);
      for (int64_t d = d0; d < std::min(dims_, d0 + kLanes); ++d) {
        float* place = by_group_.data() + (group * dims_ + d) * 2 * kLanes;
        sum += log_var[d - d0] + kLogTwoPi;
        store(place, mean[d - d0]);
        store(place + kLanes, exp(-log_var[d - d0]));
      }
    }
    store(constants_.data() + group * kLanes, load(constants) - 0.5f * sum);
  }

  int64_t components_, dims_, groups_, vectors_;
  Buffer constants_, by_group_;
  bool has_by_component_;
  Buffer by_component_;
};

}  // namespace dgm::DGM_ISA
