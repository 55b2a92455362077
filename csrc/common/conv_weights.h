// The gradients of a convolution's weight and bias; compiled once per instruction set, so without a
// guard.

#include "common/conv_tile.h"

namespace dgm::DGM_ISA {

// Sums over images and places: of x[c, q + shift(t)] grad[o, q] for every tap t and channel c, and
// of grad[o, q] alone, which is the bias's gradient. `kParts` parts of the samples are summed
// apart.
class WeightSums {
 public:
  static constexpr int64_t kParts = 16, kChannels = 32;
  static constexpr int64_t kFloats = 1 << 24;  // of all parts: 64 MiB

  // `grid` has the places of grad, `from` those of x. Sums are cut as the taps have it, also where
  // only the bias's is wanted, so that its bits are the same.
  WeightSums(
      const Grid& grid, const Grid& from, int64_t in, int64_t out, const std::vector<Tap>& taps,
      bool weights)
      : grid_(apart(grid, taps)),
        from_(apart(from, taps)),
        in_(in),
        out_(out),
        shifts_(weights ? shifts_of(taps, grid_.pitch) : std::vector<int64_t>()),
        line_(tiles(out, kLanes) * kLanes),
        length_(std::clamp<int64_t>(kScratch / 2 / line_, 64, 1024)),
        bands_(tiles(grid_.places(), length_)),
        size_((1 + in * tap_count()) * line_),
        parts_(std::min({kParts, most_parts(taps), grid.samples * bands_})),
        sums_(parts_ * size_) {
    std::fill_n(sums_.data(), parts_ * size_, 0.0f);
  }

  template <typename T>
  void add(const Images<const T>& x, const Images<const T>& grad) {
    const int64_t groups = std::max<int64_t>(1, tiles(in_, kChannels)), places = grid_.places();
    const int64_t work = grid_.samples * places * in_ * out_ * tap_count();

    run_tasks(parts_ * groups, work, [&](int64_t task) {
      const int64_t part = task / groups, channel0 = task % groups * kChannels;
      Band band(*this, channel0, std::min(kChannels, in_ - channel0));
      const int64_t units = grid_.samples * bands_, end = units * (part + 1) / parts_;
      for (int64_t i = units * part / parts_; i < end; ++i) {
        const int64_t begin = i % bands_ * length_;
        band.read(x, grad, i / bands_, begin, std::min(length_, places - begin));
        band.add_to(sums_.data() + part * size_);
      }
    });
  }

  // Writes a gradient (out, in, kernel), zero where no tap is or it is not live.
  template <typename T, typename Live>
  void write(const std::vector<Tap>& taps, int64_t kernel, T* grad_weight, const Live& live) const {
    run_tasks(out_, out_ * in_ * kernel * parts_, [&](int64_t o) {
      T* line = grad_weight + o * in_ * kernel;
      std::fill_n(line, in_ * kernel, static_cast<T>(0.0f));
      for (std::size_t t = 0; t < taps.size(); ++t) {
        for (int64_t c = 0; c < in_; ++c) {
          if (!live(taps[t], o, c)) continue;
          const int64_t row = 1 + static_cast<int64_t>(t) * in_ + c;
          line[c * kernel + taps[t].weight] = static_cast<T>(total(row * line_ + o));
        }
      }
    });
  }

  template <typename T>
  void write_bias(T* grad_bias) const {
    for (int64_t o = 0; o < out_; ++o) grad_bias[o] = static_cast<T>(total(o));
  }

 private:
  // The same images with as many zeros after a row as the taps reach beyond it.
  static Grid apart(Grid grid, const std::vector<Tap>& taps) {
    int64_t zeros = 0;
    for (const Tap& tap : taps) zeros = std::max(zeros, std::abs(tap.column));
    grid.pitch = grid.width + zeros;
    return grid;
  }

  int64_t most_parts(const std::vector<Tap>& taps) const {
    const int64_t size = (1 + in_ * static_cast<int64_t>(taps.size())) * line_;
    return std::max<int64_t>(1, kFloats / size);
  }

  int64_t tap_count() const { return static_cast<int64_t>(shifts_.size()); }

  float total(int64_t place) const {
    float sum = 0.0f;
    for (int64_t part = 0; part < parts_; ++part) {
      sum += sums_.data()[part * size_ + place];
    }
    return sum;
  }

  // What a task holds of an image: the places of some channels of x, those of grad by place.
  struct Band {
    Band(const WeightSums& all, int64_t channel0, int64_t channels)
        : all(all),
          channel0(channel0),
          channels(channels),
          windows(all.shifts_, all.length_),
          x(channels * windows.plane + all.length_),
          grad(all.length_ * all.line_) {
      std::fill_n(x.data() + channels * windows.plane, all.length_, 1.0f);
      // The bias is the weight of a channel that is one everywhere.
      if (channel0 == 0) rows.push_back({x.data() + channels * windows.plane, 0});
      for (int64_t t = 0; t < all.tap_count(); ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t row = 1 + t * all.in_ + channel0 + c;
          rows.push_back({x.data() + c * windows.plane + windows.at(t), row});
        }
      }
    }

    template <typename T>
    void read(
        const Images<const T>& from_x, const Images<const T>& from_grad, int64_t sample, int64_t q,
        int64_t n) {
      count = n;
      windows.read(from_x, sample, channel0, channels, all.from_, q, n, x.data());
      pack_lines(from_grad, sample, all.out_, all.grid_, q, n, all.line_, grad.data());
    }

    void add_to(float* sums) {
      const int64_t size = static_cast<int64_t>(rows.size());
      float unused[kSpan] = {};
      for (int64_t row0 = 0; row0 < size; row0 += kRows) {
        const float* left[kRows];
        for (int m = 0; m < kRows; ++m) left[m] = rows[std::min(row0 + m, size - 1)].values;

        for_each_span(all.line_ / kLanes, [&](auto vectors, int64_t v0) {
          // Rows beyond the last have nowhere to go.
          float* lines[kRows];
          for (int m = 0; m < kRows; ++m) {
            const bool live = row0 + m < size;
            lines[m] = live ? sums + rows[row0 + m].place * all.line_ + v0 * kLanes : unused;
          }
          add_products<decltype(vectors)::value>(
              left, grad.data() + v0 * kLanes, count, all.line_, lines);
        });
      }
    }

    struct Row {
      const float* values;
      int64_t place;  // of its sums
    };

    const WeightSums& all;
    int64_t channel0, channels;
    int64_t count = 0;
    Windows windows;
    Buffer x, grad;
    std::vector<Row> rows;
  };

  Grid grid_, from_;
  int64_t in_, out_;
  std::vector<int64_t> shifts_;
  int64_t line_, length_, bands_, size_, parts_;
  Buffer sums_;
};

// Computes the gradients of a weight (out, in, kernel) and of its bias, each unless it is null; x
// has the places of `from` and grad those of `grid`.
template <typename T, typename Live = AllLive>
static void sum_weight_gradients(
    const Grid& grid, const Grid& from, const Images<const T>& x, const Images<const T>& grad,
    const Weight<T>& weight, const std::vector<Tap>& taps, T* grad_weight, T* grad_bias,
    const Live& live = {}) {
  if (!grad_weight && !grad_bias) return;
  WeightSums sums(grid, from, weight.in, weight.out, taps, grad_weight != nullptr);
  sums.add(x, grad);
  if (grad_weight) sums.write(taps, weight.kernel, grad_weight, live);
  if (grad_bias) sums.write_bias(grad_bias);
}

}  // namespace dgm::DGM_ISA
