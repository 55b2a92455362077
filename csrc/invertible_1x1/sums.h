// Sums over the pixels of one piece; compiled once per instruction set, so without a guard.

#include "invertible_1x1/matrices.h"

namespace dgm::DGM_ISA {

// Of few channels, each sum is a vector whose lanes are pixels, added at the end: nothing is
// transposed. Of many, the vectors would not fit a cache; then x is transposed, lanes are channels.
class PieceSums {
 public:
  explicit PieceSums(int64_t channels)
      : channels_(channels),
        few_(channels <= kFew),
        pitch_(few_ ? channels * kLanes : tiles(channels, kLanes) * kLanes),
        products_(channels * pitch_),
        rows_(2 * channels * kLanes),
        turned_(few_ ? 0 : kStrip * pitch_) {
    std::fill_n(products_.data(), channels * pitch_, 0.0f);
    std::fill_n(rows_.data(), 2 * channels * kLanes, 0.0f);
  }

  // products += grad x^T.
  void add_products(const float* grad, const float* x) {
    if (few_) {
      add_lane_by_lane(grad, x);
    } else {
      add_transposed(grad, x);
    }
  }

  // plain += sum of a row of a; scaled += sum of a row of a b.
  void add_plain(const float* a) {
    for (int64_t c = 0; c < channels_; ++c) {
      Vec row = load(rows_.data() + c * kLanes);
      for (int i = 0; i < kStrip; i += kLanes) row += load(a + c * kPitch + i);
      store(rows_.data() + c * kLanes, row);
    }
  }

  void add_scaled(const float* a, const float* b) {
    for (int64_t c = 0; c < channels_; ++c) {
      Vec row = load(rows_.data() + (channels_ + c) * kLanes);
      for (int i = 0; i < kStrip; i += kLanes) {
        row += load(a + c * kPitch + i) * load(b + c * kPitch + i);
      }
      store(rows_.data() + (channels_ + c) * kLanes, row);
    }
  }

  void add_to(Sums& sums) {
    for (int64_t i = 0; i < channels_; ++i) {
      for (int64_t j = 0; j < channels_; ++j) {
        sums.products[i][j] += few_ ? sum(load(vector(i, j))) : products_.data()[i * pitch_ + j];
      }
      sums.plain[i] += sum(load(rows_.data() + i * kLanes));
      sums.scaled[i] += sum(load(rows_.data() + (channels_ + i) * kLanes));
    }
  }

 private:
  static constexpr int64_t kFew = 16;
  // 4 x 6 accumulators and 6 vectors fill 30 of 32 registers; 2 x 4 and 4, 12 of 16.
  static constexpr int kTall = DGM_VECTOR_BYTES == 64 ? 4 : 2;
  static constexpr int kWide = DGM_VECTOR_BYTES == 64 ? 6 : 4;

  float* vector(int64_t i, int64_t j) { return products_.data() + i * pitch_ + j * kLanes; }

  void add_lane_by_lane(const float* grad, const float* x) {
    for (int64_t i = 0; i < channels_; i += kTall) {
      for (int64_t j = 0; j < channels_; j += kWide) {
        if (i + kTall <= channels_ && j + kWide <= channels_) {
          add_tile<kTall, kWide>(grad, x, i, j);
          continue;
        }
        for (int64_t k = i; k < std::min(channels_, i + kTall); ++k) {
          for (int64_t l = j; l < std::min(channels_, j + kWide); ++l) {
            add_tile<1, 1>(grad, x, k, l);
          }
        }
      }
    }
  }

  template <int M, int N>
  DGM_INLINE_MEMBER void add_tile(const float* grad, const float* x, int64_t i, int64_t j) {
    Vec total[M][N];
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) total[m][n] = load(vector(i + m, j + n));
    }

    for (int k = 0; k < kStrip; k += kLanes) {
      Vec right[N];
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) right[n] = load(x + (j + n) * kPitch + k);
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m) {
        const Vec left = load(grad + (i + m) * kPitch + k);
#pragma GCC unroll 6
        for (int n = 0; n < N; ++n) total[m][n] += left * right[n];
      }
    }

#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n) store(vector(i + m, j + n), total[m][n]);
    }
  }

  void add_transposed(const float* grad, const float* x) {
    for (int64_t c0 = 0; c0 < channels_; c0 += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, channels_ - c0);
      for (int k = 0; k < kStrip; k += kLanes) {
        Vec square[kLanes] = {};
        for (int64_t j = 0; j < count; ++j) square[j] = load(x + (c0 + j) * kPitch + k);
        transpose(square);
        for (int j = 0; j < kLanes; ++j) store(turned_.data() + (k + j) * pitch_ + c0, square[j]);
      }
    }

    for_each_block(channels_, [&](int64_t i, auto constant) {
      constexpr int R = decltype(constant)::value;
      int64_t c0 = 0;
      for (; c0 + kWidth <= pitch_; c0 += kWidth) add_rows<R, 2>(grad, i, c0);
      if (c0 < pitch_) add_rows<R, 1>(grad, i, c0);
    });
  }

  template <int R, int V>
  DGM_INLINE_MEMBER void add_rows(const float* grad, int64_t i, int64_t c0) {
    Vec total[R][V] = {};
    const float* right = turned_.data() + c0;
    for (int k = 0; k < kStrip; ++k, right += pitch_) {
      Vec x[V];
      for (int v = 0; v < V; ++v) x[v] = load(right + v * kLanes);
#pragma GCC unroll 12
      for (int m = 0; m < R; ++m) {
        const Vec left = grad[(i + m) * kPitch + k] - Vec{};
        for (int v = 0; v < V; ++v) total[m][v] += left * x[v];
      }
    }

#pragma GCC unroll 12
    for (int m = 0; m < R; ++m) {
      for (int v = 0; v < V; ++v) {
        float* place = products_.data() + (i + m) * pitch_ + c0 + v * kLanes;
        store(place, load(place) + total[m][v]);
      }
    }
  }

  int64_t channels_;
  bool few_;
  int64_t pitch_;  // of the rows of products
  Buffer products_, rows_, turned_;
};

}  // namespace dgm::DGM_ISA
