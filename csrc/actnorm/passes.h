// The forward and the backward pass; compiled once per instruction set, so without a guard.
//
// With f = e^s and t, or f = e^-s and -t where inverse, they are y = (x + t) f and y = x f + t.

#include "actnorm/statistics.h"

namespace dgm::DGM_ISA {

using actnorm::Backward;
using actnorm::Elements;
using actnorm::Forward;
using actnorm::Parameters;

// f and t of the slots of a row.
class SlotParameters {
 public:
  SlotParameters(const Walk& walk, const Parameters& parameters, bool inverse)
      : factor_(whole(walk.slots)), shift_(whole(walk.slots)) {
    Buffer scale(whole(walk.channels));
    for_each_vector(walk.channels, [&](int64_t c, int64_t count) {
      const Vec s = load(parameters.log_scale + c, count);
      store(scale.data() + c, exp(inverse ? -s : s));
    });
    walk.for_each_slot([&](int64_t slot, int64_t channel) {
      const float t = parameters.shift[channel];
      factor_.data()[slot] = scale.data()[channel];
      shift_.data()[slot] = inverse ? -t : t;
    });
  }

  float* factor() { return factor_.data(); }
  float* shift() { return shift_.data(); }

 private:
  Buffer factor_, shift_;
};

// What a run of elements takes of a row's parameters: a line one value, single elements each its
// own, in whole vectors.
template <bool lines>
class RunValues {
 public:
  DGM_INLINE_MEMBER explicit RunValues(const float* values)
      : values_(values), same_(broadcast(*values)) {}

  DGM_INLINE_MEMBER Vec at(int64_t i) const {
    if constexpr (lines) return same_;
    return load(values_ + i);
  }

 private:
  const float* values_;
  const Vec same_;
};

template <bool lines, typename T>
DGM_INLINE void transform(
    const float* factors, const float* shifts, bool before, const T* x, T* y, int64_t count,
    bool streams) {
  const RunValues<lines> factor(factors), shift(shifts);
  for_each_vector(count, [&](int64_t i, int64_t lanes) {
    read_ahead(x + i);
    const Vec vx = load(x + i, lanes), f = factor.at(i), t = shift.at(i);
    put(y + i, before ? (vx + t) * f : vx * f + t, lanes, streams);
  });
}

template <bool lines, typename T>
static void forward_rows(const Forward<T>& p) {
  SlotParameters parameters(p.walk, p.parameters, p.inverse);
  for_each_task(p.walk, [&](const Task& task) {
    for_each_run<lines>(p.walk, task, [&](const Run& run) {
      T* y = run.of(p.y);
      transform<lines>(
          parameters.factor() + run.slot, parameters.shift() + run.slot, !p.inverse, run.of(p.x), y,
          run.count, p.streams && is_aligned(y));
    });
    if (p.streams) streams_are_done();
  });
}

template <typename T>
static void forward(const Forward<T>& p) {
  p.walk.lines ? forward_rows<true>(p) : forward_rows<false>(p);
}

// Sums of slots: of a line the sum of its lanes, of single elements each its own.
template <bool lines>
class RunSum {
 public:
  DGM_INLINE_MEMBER explicit RunSum(float* slots) : slots_(slots) {}

  DGM_INLINE_MEMBER void add(int64_t i, Vec v, int64_t count) {
    v = first(v, count);
    if constexpr (lines) {
      lanes_ += v;
    } else {
      store(slots_ + i, load(slots_ + i) + v);
    }
  }

  DGM_INLINE_MEMBER void finish() {
    if constexpr (lines) *slots_ += sum(lanes_);
  }

 private:
  float* slots_;
  Vec lanes_{};
};

template <bool lines, typename T>
DGM_INLINE void differentiate(
    const float* factors, const float* shifts, const T* grad_y, const T* x, T* grad_x,
    float* plain_sums, float* scaled_sums, int64_t count, bool streams) {
  const RunValues<lines> factor(factors), shift(shifts);
  RunSum<lines> plain(plain_sums), scaled(scaled_sums);
  for_each_vector(count, [&](int64_t i, int64_t lanes) {
    read_ahead(grad_y + i);
    const Vec g = load(grad_y + i, lanes);
    if (grad_x != nullptr) put(grad_x + i, g * factor.at(i), lanes, streams);
    if (plain_sums != nullptr) {
      read_ahead(x + i);
      plain.add(i, g, lanes);
      scaled.add(i, g * (load(x + i, lanes) + shift.at(i)), lanes);
    }
  });
  if (plain_sums != nullptr) {
    plain.finish();
    scaled.finish();
  }
}

// Sums of blocks of rows in their order, and then of the slots of each channel.
static inline void add_blocks(
    const Walk& walk, const float* blocks, int64_t pitch, int which, double* of_channel) {
  std::vector<double> total(walk.slots, 0.0);
  for (int64_t block = 0; block < walk.blocks(); ++block) {
    const float* row = blocks + (2 * block + which) * pitch;
    for (int64_t slot = 0; slot < walk.slots; ++slot) total[slot] += row[slot];
  }
  walk.for_each_slot([&](int64_t slot, int64_t channel) { of_channel[channel] += total[slot]; });
}

template <bool lines, typename T>
static void backward_rows(const Backward<T>& p) {
  SlotParameters parameters(p.walk, p.parameters, p.inverse);
  // An inverse scales before it shifts.
  if (p.inverse) std::fill_n(parameters.shift(), p.walk.slots, 0.0f);

  const bool sums = p.sums.plain != nullptr;
  const int64_t pitch = whole(p.walk.slots);
  Buffer partial(sums ? 2 * p.walk.blocks() * pitch : 0);

  for_each_task(p.walk, [&](const Task& task) {
    float* plain = sums ? partial.data() + 2 * task.block * pitch : nullptr;
    float* scaled = sums ? plain + pitch : nullptr;
    const int64_t end = task.end < p.walk.slots ? task.end : pitch;
    if (sums) {
      std::fill(plain + task.begin, plain + end, 0.0f);
      std::fill(scaled + task.begin, scaled + end, 0.0f);
    }

    for_each_run<lines>(p.walk, task, [&](const Run& run) {
      T* grad_x = p.grad_x.data != nullptr ? run.of(p.grad_x) : nullptr;
      differentiate<lines>(
          parameters.factor() + run.slot, parameters.shift() + run.slot, run.of(p.grad_y),
          run.of(p.x), grad_x, sums ? plain + run.slot : nullptr,
          sums ? scaled + run.slot : nullptr, run.count, p.streams && is_aligned(grad_x));
    });
    if (p.streams) streams_are_done();
  });

  if (sums) {
    add_blocks(p.walk, partial.data(), pitch, 0, p.sums.plain);
    add_blocks(p.walk, partial.data(), pitch, 1, p.sums.scaled);
  }
}

template <typename T>
static void backward(const Backward<T>& p) {
  p.walk.lines ? backward_rows<true>(p) : backward_rows<false>(p);
}

}  // namespace dgm::DGM_ISA
