// Gradients of parameters that samples share, summed over them. Compiled once per instruction set,
// so without a guard.
//
// Samples are cut into chunks, whose number no thread count changes; a task adds up a chunk's
// gradients sample by sample, and the chunks are added in their order.

#include "rational_quadratic_spline/spline.h"

namespace dgm::DGM_ISA {

constexpr int64_t kSharedBlock = 256;  // elements whose gradients wait in the first cache
constexpr int64_t kChunks = 64;        // at most

// A chunk's sums: the gradients of each array, dense (outer, inner, count).
struct ChunkSums {
  template <typename X, typename P>
  ChunkSums(const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients) {
    for (int i = 0; i < gradients.arrays; ++i) {
      sums[i].resize(problem.outer * problem.inner * gradients.parameters[i].count);
    }
  }

  std::vector<float> sums[spline::kArrays];
};

// Gradients of a block's elements, one after another.
template <typename X, typename P>
DGM_INLINE void differentiate_block(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients,
    const Block& block, float* const* scratch) {
  spline::Gradients<X, float> each{gradients.y, gradients.log_det, gradients.log_det_stride,
                                   gradients.x, gradients.arrays,  {}};
  for (int i = 0; i < gradients.arrays; ++i) {
    const int64_t count = gradients.parameters[i].count;
    each.parameters[i] = {scratch[i], 0, block.length() * count, count, 1, count, nullptr};
  }
  const int64_t row = block.first.sample * problem.outer + block.first.outer;
  X* const dense = gradients.x;
  backward_block(
      problem, each, block, Block{{0, 0, 0}, block.rows, block.rows, block.length()},
      dense == nullptr ? nullptr : dense + row * problem.inner + block.first.inner);
}

template <typename X, typename P>
DGM_INLINE void add_block(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients,
    const Block& block, float* const* scratch, ChunkSums& chunk) {
  for (int i = 0; i < gradients.arrays; ++i) {
    const int64_t count = gradients.parameters[i].count, size = block.length() * count;
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t o = (block.first.outer + r) % problem.outer;
      float* to = chunk.sums[i].data() + (o * problem.inner + block.first.inner) * count;
      const float* from = scratch[i] + r * size;
      for (int64_t j = 0; j < size; ++j) to[j] += from[j];
    }
  }
}

template <typename X, typename P>
static void sum_chunk(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients, int64_t first,
    int64_t last, ChunkSums& chunk) {
  const int64_t inner = problem.inner, outer = problem.outer;
  const int64_t together = kSharedBlock / std::clamp<int64_t>(inner, 1, kSharedBlock);
  int64_t columns = 0;
  for (int i = 0; i < gradients.arrays; ++i) columns += gradients.parameters[i].count;
  Buffer memory(kSharedBlock * columns);

  for (int64_t row = first * outer; row < last * outer; row += together) {
    for (int64_t begin = 0; begin < inner; begin += kSharedBlock) {
      const Block block{
          {row / outer, row % outer, begin},
          outer,
          std::min(together, last * outer - row),
          std::min(inner, begin + kSharedBlock)};
      float* scratch[spline::kArrays] = {memory.data()};
      for (int i = 1; i < gradients.arrays; ++i) {
        scratch[i] = scratch[i - 1] + block.size() * gradients.parameters[i - 1].count;
      }
      differentiate_block(problem, gradients, block, scratch);
      add_block(problem, gradients, block, scratch, chunk);
    }
  }
}

// The chunks' sums in order, to where the gradients belong.
template <typename X, typename P>
static void add_chunks(
    const spline::Problem<X, P>& problem, const std::vector<ChunkSums>& chunks, int i,
    const spline::Columns<P>& to) {
  int64_t place = 0;
  for (int64_t o = 0; o < problem.outer; ++o) {
    for (int64_t e = 0; e < problem.inner; ++e) {
      for (int64_t k = 0; k < to.count; ++k, ++place) {
        float sum = 0.0f;
        for (const ChunkSums& chunk : chunks) sum += chunk.sums[i][place];
        to.row(0, o)[e * to.inner + k * to.column] = static_cast<P>(sum);
      }
    }
  }
}

template <typename X, typename P>
static void backward_shared_spline(
    const spline::Problem<X, P>& problem, const spline::Gradients<X, P>& gradients) {
  const int64_t samples = problem.samples, elements = samples * problem.outer * problem.inner;
  const int64_t wanted = std::min({kChunks, samples, 1 + elements / kBlock});
  const int64_t size = wanted == 0 ? 1 : (samples + wanted - 1) / wanted;
  const int64_t count = (samples + size - 1) / size;

  std::vector<ChunkSums> chunks;
  for (int64_t i = 0; i < count; ++i) chunks.emplace_back(problem, gradients);
  run_tasks(count, elements * 40 * problem.options.bins, [&](int64_t i) {
    sum_chunk(problem, gradients, i * size, std::min(samples, (i + 1) * size), chunks[i]);
  });
  for (int i = 0; i < gradients.arrays; ++i) {
    if (gradients.parameters[i].data != nullptr) {
      add_chunks(problem, chunks, i, gradients.parameters[i]);
    }
  }
}

}  // namespace dgm::DGM_ISA
