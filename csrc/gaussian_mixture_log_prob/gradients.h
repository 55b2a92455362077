// Gradients of the densities; compiled once per instruction set, so without a guard.

#include "gaussian_mixture_log_prob/density.h"

namespace dgm::DGM_ISA {

// Components that a tile takes at a time: their means, precisions and two sums for one vector of
// dims fill 16 of 32 registers, or 8 of 16.
constexpr int kTogether = DGM_VECTOR_BYTES == 64 ? 4 : 2;

// Sums over the rows of one piece, with q the share of a component times the row's gradient: of
// q (z - mean) and q (z - mean)^2 as [component][vector of dims][which][lane], and of q.
struct PieceSums {
  float *components, *weights;
  int64_t pitch;

  float* component(int64_t i) const { return components + i * pitch; }
};

// Those of every piece, in one block of memory: blocks of medium size come with fresh pages each
// time, which cost more than the sums.
class AllSums {
 public:
  AllSums(Components& components, int64_t size, int64_t pieces)
      : pitch_(components.vectors() * 2 * kLanes),
        by_component_(size * pitch_),
        by_weight_(components.groups() * kLanes),
        values_(pieces * (by_component_ + by_weight_)) {}

  PieceSums cleared(int64_t piece) {
    float* first = values_.data() + piece * (by_component_ + by_weight_);
    std::fill_n(first, by_component_ + by_weight_, 0.0f);
    return (*this)[piece];
  }

  PieceSums operator[](int64_t piece) {
    float* first = values_.data() + piece * (by_component_ + by_weight_);
    return {first, first + by_component_, pitch_};
  }

 private:
  int64_t pitch_, by_component_, by_weight_;
  Buffer values_;
};

// Turns shares into q, and adds them up.
DGM_INLINE void weigh(Block& block, int64_t count, const float* factors, const PieceSums& sums) {
  for (int64_t k = 0; k < block.pitch(); k += kLanes) {
    Vec total = load(sums.weights + k);
    for (int64_t i = 0; i < count; ++i) {
      const Vec q = load(block.shares(i) + k) * factors[i];
      store(block.shares(i) + k, q);
      total += q;
    }
    store(sums.weights + k, total);
  }
}

// Adds what N components from k on give for one vector of dims: to their sums, and to
// grad_z[row] = sum q precision (mean - z).
template <int N, bool points, bool parameters>
DGM_INLINE void differentiate_tile(
    Components& components, Block& block, int64_t count, int64_t k, int64_t vector,
    const PieceSums& sums, float* grad_z) {
  const int64_t padded = components.vectors() * kLanes;
  Vec mean[N], precision[N], first[N], second[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const float* from = components.component(k + n) + vector * 2 * kLanes;
    const float* sum = sums.component(parameters ? k + n : 0) + vector * 2 * kLanes;
    mean[n] = load(from);
    precision[n] = load(from + kLanes);
    first[n] = parameters ? load(sum) : Vec{};
    second[n] = parameters ? load(sum + kLanes) : Vec{};
  }

  const float *z = block.row(0) + vector * kLanes, *q = block.shares(0) + k;
  float* grad = grad_z + vector * kLanes;
  for (int64_t i = 0; i < count; ++i, z += padded, q += block.pitch(), grad += padded) {
    const Vec point = load(z);
    Vec pull = points ? load(grad) : Vec{};
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Vec difference = point - mean[n], weighed = difference * q[n];
      if constexpr (parameters) {
        first[n] += weighed;
        second[n] += weighed * difference;
      }
      if constexpr (points) pull -= weighed * precision[n];
    }
    if constexpr (points) store(grad, pull);
  }

  if constexpr (parameters) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      float* sum = sums.component(k + n) + vector * 2 * kLanes;
      store(sum, first[n]);
      store(sum + kLanes, second[n]);
    }
  }
}

template <bool points, bool parameters>
static void differentiate(
    Components& components, int64_t size, Block& block, int64_t count, const PieceSums& sums,
    float* grad_z) {
  for (int64_t k = 0; k < size; k += kTogether) {
    for (int64_t vector = 0; vector < components.vectors(); ++vector) {
      if (k + kTogether <= size) {
        differentiate_tile<kTogether, points, parameters>(
            components, block, count, k, vector, sums, grad_z);
      } else {
        for (int64_t l = k; l < size; ++l) {
          differentiate_tile<1, points, parameters>(
              components, block, count, l, vector, sums, grad_z);
        }
      }
    }
  }
}

// Adds the pieces in their order and writes the parameters' gradients.
template <typename T>
static void finish(const Backward<T>& p, Components& components, AllSums& sums, int64_t pieces) {
  const int64_t dims = p.forward.dims, size = p.forward.components;
  const int64_t work = size * components.vectors() * 2 * kLanes * pieces;

  run_tasks(tiles(size, kLanes), work, [&](int64_t task) {
    for (int64_t k = task * kLanes; k < std::min(size, (task + 1) * kLanes); ++k) {
      float weight = 0.0f;
      for (int64_t piece = 0; piece < pieces; ++piece) weight += sums[piece].weights[k];
      if (p.log_weights != nullptr) p.log_weights[k] = static_cast<T>(weight);
      if (p.means == nullptr && p.log_vars == nullptr) continue;

      for (int64_t vector = 0; vector < components.vectors(); ++vector) {
        Vec first{}, second{};
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const float* sum = sums[piece].component(k) + vector * 2 * kLanes;
          first += load(sum);
          second += load(sum + kLanes);
        }
        const Vec precision = load(components.component(k) + vector * 2 * kLanes + kLanes);
        const int64_t d = vector * kLanes, place = k * dims + d;
        if (p.means != nullptr) store(p.means + place, precision * first, dims - d);
        if (p.log_vars != nullptr) {
          store(p.log_vars + place, 0.5f * (precision * second - weight), dims - d);
        }
      }
    }
  });
}

constexpr int64_t kPiece = 4;
constexpr int64_t kRoomBytes = int64_t{128} << 20;

template <typename T>
static void gradients(const Backward<T>& p) {
  const int64_t rows = p.forward.rows, size = p.forward.components, dims = p.forward.dims;
  const bool parameters = p.means != nullptr || p.log_vars != nullptr;
  Components components(p.forward, true);

  // Pieces follow from the sizes alone, and are added in their order: bits do not depend on the
  // number of threads. Each has sums as large as the parameters, which are worth their memory for
  // kPiece blocks of rows and more, and of which there is room for a few.
  const int64_t blocks = tiles(rows, kBlock);
  const int64_t bytes = size * components.vectors() * 2 * kLanes * sizeof(float);
  const int64_t room = kRoomBytes / std::max<int64_t>(bytes, 1);
  const int64_t most = std::clamp<int64_t>(std::min(blocks / kPiece, room), 2, 64);
  const int64_t length = tiles(blocks, most), count = tiles(blocks, std::max<int64_t>(1, length));
  AllSums all(components, parameters ? size : 1, count);

  run_tasks(count, 4 * rows * size * (dims + 8), [&](int64_t task) {
    const PieceSums sums = all.cleared(task);
    const int64_t padded = components.vectors() * kLanes;
    Block block(components, dims);
    Buffer grad_z(kBlock * padded);
    float totals[kBlock], log_prob[kBlock], factors[kBlock];

    for (int64_t i = task * length; i < std::min(blocks, (task + 1) * length); ++i) {
      const int64_t first = i * kBlock, live = std::min<int64_t>(kBlock, rows - first);
      block.measure(p.forward.z, first, live, totals, log_prob);
      for (int64_t r = 0; r < live; ++r) factors[r] = p.grad[first + r] / totals[r];
      weigh(block, live, factors, sums);

      if (p.z == nullptr) {
        if (parameters) {
          differentiate<false, true>(components, size, block, live, sums, nullptr);
        }
        continue;
      }
      std::fill_n(grad_z.data(), live * padded, 0.0f);
      if (parameters) {
        differentiate<true, true>(components, size, block, live, sums, grad_z.data());
      } else {
        differentiate<true, false>(components, size, block, live, sums, grad_z.data());
      }
      for (int64_t r = 0; r < live; ++r) {
        for (int64_t d = 0; d < dims; d += kLanes) {
          store(p.z + (first + r) * dims + d, load(grad_z.data() + r * padded + d), dims - d);
        }
      }
    }
  });
  finish(p, components, all, count);
}

}  // namespace dgm::DGM_ISA
