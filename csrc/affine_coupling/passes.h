// The forward and the backward pass; compiled once per instruction set, so without a guard.
//
// With f = s, or 1 / s where inverse, both orders and directions are y = (x + t) f or x f + t, with
// -t for t where inverse: one formula, whose shift comes before or after the product.
//
// A block of factors is evaluated into the first cache and then used, so that maps and dtypes are
// compiled apart; that costs two stores and two loads of some fifty instructions a vector.

#include "affine_coupling/maps.h"

namespace dgm::DGM_ISA {

using affine_coupling::Backward;
using affine_coupling::Forward;
using affine_coupling::Lines;
using affine_coupling::Part;

constexpr int64_t kPiece = 16384;  // elements of one task
constexpr int64_t kBlock = 256;    // elements evaluated at a time
constexpr int64_t kWork = 40;      // of an element, in multiply-adds

static bool shifts_before(const Options& options) { return options.shift_first != options.inverse; }

// Calls f(channel, start, count) for what makes up elements [begin, end): lines, or blocks of them.
template <typename F>
DGM_INLINE void for_each_run(const Part& part, int64_t begin, int64_t end, const F& f) {
  for (int64_t element = begin; element < end;) {
    const int64_t start = element % part.line;
    const int64_t count = std::min({part.line - start, end - element, kBlock});
    f(element / part.line, start, count);
    element += count;
  }
}

// Returns `count` elements as floats, in whole vectors: where they are, or converted.
template <typename U>
static const float* as_floats(const U* u, int64_t count, float (&block)[kBlock]) {
  if constexpr (std::is_same_v<U, float>) {
    if (count % kLanes == 0) return u;
  }
  for_each_vector(count, [&](int64_t i, int64_t lanes) {
    read_ahead(u + i);
    store(block + i, load(u + i, lanes));
  });
  return block;
}

// The factors of a block, and log s or d log s / du.
struct Factors {
  alignas(64) float factor[kBlock];
  alignas(64) float second[kBlock];

  template <typename U>
  void set(Evaluate evaluate, const Options& options, const U* u, int64_t count) {
    alignas(64) float block[kBlock];
    const float* floats = options.map == ScaleMap::none ? block : as_floats(u, count, block);
    evaluate(options, floats, (count + kLanes - 1) / kLanes * kLanes, factor, second);
  }
};

DGM_INLINE VecInt load_mask(const bool* mask, int64_t count) {
  return load(reinterpret_cast<const uint8_t*>(mask), count) != 0.0f;
}

// Copies lines, or fills them with zeros where there are none to copy.
template <typename T>
static void copy_lines(
    const Part& part, const Lines<const T>& from, const Lines<T>& to, int64_t sample, int64_t begin,
    int64_t end, bool streams) {
  for_each_run(part, begin, end, [&](int64_t channel, int64_t start, int64_t count) {
    const T* source = from.line(sample, channel) + start;
    T* place = to.line(sample, channel) + start;
    const bool streams_line = streams && is_aligned(place);

    for_each_vector(count, [&](int64_t i, int64_t lanes) {
      read_ahead(source + i);
      put(place + i, from.data != nullptr ? load(source + i, lanes) : Vec{}, lanes, streams_line);
    });
  });
}

// Moves elements [begin, end) of a sample and returns the sum of their log s.
template <typename T, typename U>
static float move_lines(
    const Forward<T, U>& p, Evaluate evaluate, int64_t sample, int64_t begin, int64_t end) {
  const bool before = shifts_before(p.options);
  const Flip flip(p.options.inverse);
  Factors factors;
  Vec sums{};

  for_each_run(p.shape.moved, begin, end, [&](int64_t channel, int64_t start, int64_t count) {
    factors.set(evaluate, p.options, p.log_scale.line(sample, channel) + start, count);
    const T* x = p.x.moved.line(sample, channel) + start;
    const U* t = p.shift.line(sample, channel) + start;
    T* y = p.y.moved.line(sample, channel) + start;
    const bool* mask = p.mask != nullptr ? p.mask + channel * p.shape.moved.line + start : nullptr;
    const bool streams = p.streams && is_aligned(y);
    Vec of_block{};  // of a few terms, so that a long sample's sum keeps its digits

    for_each_vector(count, [&](int64_t i, int64_t lanes) {
      read_ahead(x + i);
      read_ahead(t + i);
      const Vec vx = load(x + i, lanes), vt = flip(load(t + i, lanes));
      const Vec f = load(factors.factor + i);
      Vec vy = before ? (vx + vt) * f : vx * f + vt;
      Vec log_s = load(factors.second + i);

      if (mask != nullptr) {
        const VecInt kept = load_mask(mask + i, lanes);
        vy = kept ? vx : vy;
        log_s = kept ? Vec{} : log_s;
      }
      put(y + i, vy, lanes, streams);
      of_block += first(log_s, lanes);
    });
    sums += of_block;
  });
  return sum(sums);
}

template <typename T, typename U>
static void forward_pass(const Forward<T, U>& p) {
  const Evaluate evaluate = evaluation<false>(p.options.map);
  const int64_t moved = p.shape.moved.elements;
  const float sign = p.options.inverse ? -1.0f : 1.0f;

  for_each_sample(
      p.shape.samples, p.shape.elements(), kPiece, kWork, p.log_det,
      [&](int64_t sample, int64_t begin, int64_t end) {
        copy_lines(
            p.shape.still, p.x.still, p.y.still, sample, std::max(begin, moved) - moved,
            std::max(end, moved) - moved, p.streams);
        const float log_det =
            move_lines(p, evaluate, sample, std::min(begin, moved), std::min(end, moved));
        if (p.streams) streams_are_done();
        return sign * log_det;
      });
}

// Writes the gradients of the moved elements [begin, end) of a sample.
template <typename T, typename U>
static void differentiate_lines(
    const Backward<T, U>& p, Evaluate evaluate, int64_t sample, int64_t begin, int64_t end) {
  const bool before = shifts_before(p.options);
  const Flip flip(p.options.inverse);
  const Vec grad_sum = broadcast(p.grad_log_det != nullptr ? p.grad_log_det[sample] : 0.0f);
  Factors factors;

  for_each_run(p.shape.moved, begin, end, [&](int64_t channel, int64_t start, int64_t count) {
    factors.set(evaluate, p.options, p.log_scale.line(sample, channel) + start, count);
    const T* grad_y = p.grad_y.moved.line(sample, channel) + start;
    const T* x = p.x.moved.line(sample, channel) + start;
    const U* t = p.shift.line(sample, channel) + start;
    T* grad_x = p.grad_x.moved.line(sample, channel) + start;
    U* grad_u = p.grad_log_scale.line(sample, channel) + start;
    U* grad_t = p.grad_shift.line(sample, channel) + start;
    const bool* mask = p.mask != nullptr ? p.mask + channel * p.shape.moved.line + start : nullptr;
    const bool streams =
        p.streams && is_aligned(grad_x) && is_aligned(grad_u) && is_aligned(grad_t);

    for_each_vector(count, [&](int64_t i, int64_t lanes) {
      read_ahead(grad_y + i);
      read_ahead(x + i);
      const Vec g = p.grad_y.moved.data != nullptr ? load(grad_y + i, lanes) : Vec{};
      const Vec gf = g * load(factors.factor + i);
      const VecInt kept = mask != nullptr ? load_mask(mask + i, lanes) : VecInt{};

      if (p.grad_x.moved.data != nullptr) put(grad_x + i, kept ? g : gf, lanes, streams);
      if (p.grad_shift.data != nullptr) {
        put(grad_t + i, kept ? Vec{} : flip(before ? gf : g), lanes, streams);
      }
      if (p.grad_log_scale.data != nullptr) {
        Vec vx = load(x + i, lanes);
        if (before) {
          read_ahead(t + i);
          vx += flip(load(t + i, lanes));
        }
        const Vec gu = flip((gf * vx + grad_sum) * load(factors.second + i));
        put(grad_u + i, kept ? Vec{} : gu, lanes, streams);
      }
    });
  });
}

template <typename T, typename U>
static void backward_pass(const Backward<T, U>& p) {
  const Evaluate evaluate = evaluation<true>(p.options.map);
  const int64_t moved = p.shape.moved.elements;

  for_each_sample(
      p.shape.samples, p.shape.elements(), kPiece, kWork, nullptr,
      [&](int64_t place, int64_t begin, int64_t end) {
        // What the forward pass read last may still be in the last cache.
        const int64_t sample = p.shape.samples - 1 - place;
        if (p.grad_x.still.data != nullptr) {
          copy_lines(
              p.shape.still, p.grad_y.still, p.grad_x.still, sample, std::max(begin, moved) - moved,
              std::max(end, moved) - moved, p.streams);
        }
        differentiate_lines(p, evaluate, sample, std::min(begin, moved), std::min(end, moved));
        if (p.streams) streams_are_done();
        return 0.0f;
      });
}

}  // namespace dgm::DGM_ISA
