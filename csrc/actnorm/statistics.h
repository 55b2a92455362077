// Moments of channels; compiled once per instruction set, so without a guard.
//
// What fits a cache is read twice, and then merged. The first reading finds m, the mean but for its
// rounding; the second, of d = x - m, what is left of it (Chan, Golub, LeVeque, 1983,
// equation 1.7): the mean is m + sum d / n, and the squared deviations are sum d^2 - (sum d)^2 / n.

#include "actnorm/runs.h"

namespace dgm::DGM_ISA {

using actnorm::Moments;
using actnorm::Statistics;

static inline Moments corrected(double count, float mean, float left, float squares) {
  const double rest = left / count;
  const double deviations = squares - left * rest;
  return {count, mean + rest, deviations < 0 ? 0 : deviations};  // NaN stays
}

template <typename T>
static Moments moments_of_line(const T* x, int64_t count) {
  Vec sums{};
  for_each_vector(count, [&](int64_t i, int64_t lanes) {
    read_ahead(x + i);
    sums += first(load(x + i, lanes), lanes);
  });

  const float mean = sum(sums) / static_cast<float>(count);
  Vec left{}, squares{};
  for_each_vector(count, [&](int64_t i, int64_t lanes) {
    const Vec d = first(load(x + i, lanes) - mean, lanes);
    left += d;
    squares += d * d;
  });
  return corrected(static_cast<double>(count), mean, sum(left), sum(squares));
}

// Merges rows [first, last), which have all of the slots [begin, end), into these slots' moments.
class RowMoments {
 public:
  template <typename T>
  void merge(
      const Elements<const T>& x, int64_t first, int64_t last, int64_t begin, int64_t end,
      Moments* of_slot) {
    const int64_t slots = end - begin;
    if (first >= last || slots <= 0) return;
    for (float* each : {mean(), left(), squares()}) std::fill_n(each, whole(slots), 0.0f);

    for_each(x, first, last, begin, slots, [&](int64_t i, Vec v) { add(mean() + i, v); });
    const Vec rows = broadcast(static_cast<float>(last - first));
    for_each_vector(slots, [&](int64_t i, int64_t) { store(mean() + i, load(mean() + i) / rows); });

    for_each(x, first, last, begin, slots, [&](int64_t i, Vec v) {
      const Vec d = v - load(mean() + i);
      add(left() + i, d);
      add(squares() + i, d * d);
    });

    const auto count = static_cast<double>(last - first);
    for (int64_t i = 0; i < slots; ++i) {
      of_slot[begin + i].merge(corrected(count, mean()[i], left()[i], squares()[i]));
    }
  }

 private:
  static constexpr int64_t kPitch = actnorm::kLength + kLanes;

  // Lanes beyond the last slot repeat it, in memory that nothing reads.
  template <typename T, typename F>
  DGM_INLINE_MEMBER void for_each(
      const Elements<const T>& x, int64_t first, int64_t last, int64_t begin, int64_t slots,
      const F& f) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = x.at(row, 0, begin);
      for_each_vector(slots, [&](int64_t i, int64_t lanes) { f(i, load(from + i, lanes)); });
    }
  }

  DGM_INLINE_MEMBER void add(float* place, Vec v) { store(place, load(place) + v); }

  float* mean() { return buffer_.data(); }
  float* left() { return buffer_.data() + kPitch; }
  float* squares() { return buffer_.data() + 2 * kPitch; }

  Buffer buffer_{3 * kPitch};
};

template <typename T>
static void merge_rows(const Statistics<T>& p, const Task& task, Moments* of_slot) {
  constexpr int64_t kRead = 65536;  // elements read twice: half a megabyte at most
  const int64_t step = std::max<int64_t>(1, kRead / std::min(p.walk.slots, actnorm::kLength));
  RowMoments moments;
  for (int64_t first = task.first; first < task.last; first += step) {
    const int64_t last = std::min(task.last, first + step);
    // The last row may lack some.
    const int64_t end = std::min(task.end, p.walk.slots_of(last - 1));
    moments.merge(p.x, first, last, task.begin, end, of_slot);
    moments.merge(p.x, first, last - 1, std::max(end, task.begin), task.end, of_slot);
  }
}

template <typename T>
static void statistics(const Statistics<T>& p) {
  const int64_t slots = p.walk.slots;
  std::vector<Moments> partial(p.walk.blocks() * slots, Moments{});

  for_each_task(p.walk, [&](const Task& task) {
    Moments* of_slot = &partial[task.block * slots];
    if (!p.walk.lines) return merge_rows(p, task, of_slot);
    for_each_run<true>(p.walk, task, [&](const Run& run) {
      of_slot[run.slot].merge(moments_of_line(run.of(p.x), run.count));
    });
  });

  for (int64_t block = 0; block < p.walk.blocks(); ++block) {
    p.walk.for_each_slot([&](int64_t slot, int64_t channel) {
      p.of_channel[channel].merge(partial[block * slots + slot]);
    });
  }
}

}  // namespace dgm::DGM_ISA
