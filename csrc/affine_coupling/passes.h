// The forward and the backward pass; compiled once per instruction set, so without a guard.
//
// With f = s, or 1 / s where inverse, both orders and directions are y = (x + t) f or x f + t, with
// -t for t where inverse: one formula, whose shift comes before or after the product.

#include "affine_coupling/maps.h"

namespace dgm::DGM_ISA {

using affine_coupling::Backward;
using affine_coupling::Forward;
using affine_coupling::Lines;
using affine_coupling::Part;

constexpr int64_t kPiece = 16384;  // elements of one task
constexpr int64_t kWork = 40;      // of an element, in multiply-adds

static bool shifts_before(const Options& options) { return options.shift_first != options.inverse; }

// Calls f(channel, first, count) for the parts of lines that make up elements [begin, end).
template <typename F>
DGM_INLINE void for_each_line(const Part& part, int64_t begin, int64_t end, const F& f) {
  for (int64_t element = begin; element < end;) {
    const int64_t first = element % part.line;
    const int64_t count = std::min(part.line - first, end - element);
    f(element / part.line, first, count);
    element += count;
  }
}

// Calls f(place, lanes) for the vectors of a line; all but the last are whole and known to be.
template <typename F>
DGM_INLINE void for_each_vector(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, static_cast<int64_t>(kLanes));
  if (i < count) f(i, count - i);
}

DGM_INLINE VecInt load_mask(const bool* mask, int64_t count) {
  return load(reinterpret_cast<const uint8_t*>(mask), count) != 0.0f;
}

template <typename T>
static void copy_lines(
    const Part& part, const Lines<const T>& from, const Lines<T>& to, int64_t sample, int64_t begin,
    int64_t end) {
  for_each_line(part, begin, end, [&](int64_t channel, int64_t first, int64_t count) {
    T* place = to.line(sample, channel) + first;
    if (from.data == nullptr) {
      std::memset(place, 0, count * sizeof(T));
    } else {
      std::memcpy(place, from.line(sample, channel) + first, count * sizeof(T));
    }
  });
}

// Moves elements [begin, end) of a sample and returns the sum of their log s.
template <typename T, typename U, typename Map>
static float move_lines(
    const Forward<T, U>& p, const Map& map, int64_t sample, int64_t begin, int64_t end) {
  const bool before = shifts_before(p.options);
  const Flip flip(p.options.inverse);
  Vec sum{};

  for_each_line(p.shape.moved, begin, end, [&](int64_t channel, int64_t first, int64_t count) {
    const T* x = p.x.moved.line(sample, channel) + first;
    const U* u = p.log_scale.line(sample, channel) + first;
    const U* t = p.shift.line(sample, channel) + first;
    T* y = p.y.moved.line(sample, channel) + first;
    const bool* mask = p.mask != nullptr ? p.mask + channel * p.shape.moved.line + first : nullptr;

    for_each_vector(count, [&](int64_t i, int64_t lanes) {
      const Vec vx = load(x + i, lanes), vt = flip(load(t + i, lanes));
      Vec log_s;
      const Vec f = map.forward(Map::kIsConstant ? Vec{} : load(u + i, lanes), log_s);
      Vec vy = before ? (vx + vt) * f : vx * f + vt;

      if (mask != nullptr) {
        const VecInt kept = load_mask(mask + i, lanes);
        vy = kept ? vx : vy;
        log_s = kept ? Vec{} : log_s;
      }
      store(y + i, vy, lanes);
      sum += dgm::DGM_ISA::first(log_s, lanes);
    });
  });
  return dgm::DGM_ISA::sum(sum);
}

template <typename T, typename U>
static void forward_pass(const Forward<T, U>& p) {
  const int64_t moved = p.shape.moved.elements;
  const float sign = p.options.inverse ? -1.0f : 1.0f;

  with_map(p.options, [&](const auto& map) {
    for_each_sample(
        p.shape.samples, p.shape.elements(), kPiece, kWork, p.log_det,
        [&](int64_t sample, int64_t begin, int64_t end) {
          copy_lines(
              p.shape.still, p.x.still, p.y.still, sample, std::max(begin, moved) - moved,
              std::max(end, moved) - moved);
          return sign * move_lines(p, map, sample, std::min(begin, moved), std::min(end, moved));
        });
  });
}

// Writes the gradients of the moved elements [begin, end) of a sample.
template <typename T, typename U, typename Map>
static void differentiate_lines(
    const Backward<T, U>& p, const Map& map, int64_t sample, int64_t begin, int64_t end) {
  const bool before = shifts_before(p.options);
  const Flip flip(p.options.inverse);
  const Vec grad_sum = broadcast(p.grad_log_det != nullptr ? p.grad_log_det[sample] : 0.0f);

  for_each_line(p.shape.moved, begin, end, [&](int64_t channel, int64_t first, int64_t count) {
    const T* grad_y = p.grad_y.moved.line(sample, channel) + first;
    const T* x = p.x.moved.line(sample, channel) + first;
    const U* u = p.log_scale.line(sample, channel) + first;
    const U* t = p.shift.line(sample, channel) + first;
    T* grad_x = p.grad_x.moved.line(sample, channel) + first;
    U* grad_u = p.grad_log_scale.line(sample, channel) + first;
    U* grad_t = p.grad_shift.line(sample, channel) + first;
    const bool* mask = p.mask != nullptr ? p.mask + channel * p.shape.moved.line + first : nullptr;

    for_each_vector(count, [&](int64_t i, int64_t lanes) {
      const Vec g = p.grad_y.moved.data != nullptr ? load(grad_y + i, lanes) : Vec{};
      Vec slope;
      const Vec f = map.backward(Map::kIsConstant ? Vec{} : load(u + i, lanes), slope);
      const VecInt kept = mask != nullptr ? load_mask(mask + i, lanes) : VecInt{};

      const Vec gf = g * f;
      if (p.grad_x.moved.data != nullptr) store(grad_x + i, kept ? g : gf, lanes);
      if (p.grad_shift.data != nullptr) {
        store(grad_t + i, kept ? Vec{} : flip(before ? gf : g), lanes);
      }
      if (p.grad_log_scale.data != nullptr) {
        Vec vx = load(x + i, lanes);
        if (before) vx += flip(load(t + i, lanes));
        store(grad_u + i, kept ? Vec{} : flip((gf * vx + grad_sum) * slope), lanes);
      }
    });
  });
}

template <typename T, typename U>
static void backward_pass(const Backward<T, U>& p) {
  const int64_t moved = p.shape.moved.elements;

  with_map(p.options, [&](const auto& map) {
    for_each_sample(
        p.shape.samples, p.shape.elements(), kPiece, kWork, nullptr,
        [&](int64_t sample, int64_t begin, int64_t end) {
          if (p.grad_x.still.data != nullptr) {
            copy_lines(
                p.shape.still, p.grad_y.still, p.grad_x.still, sample,
                std::max(begin, moved) - moved, std::max(end, moved) - moved);
          }
          differentiate_lines(p, map, sample, std::min(begin, moved), std::min(end, moved));
          return 0.0f;
        });
  });
}

}  // namespace dgm::DGM_ISA
