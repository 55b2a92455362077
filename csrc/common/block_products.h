// Products of a block of threads, each weight loaded once for all samples of the block.
//
// A block is one of a GPU's, or threads of a CPU, on which its samplers are tested.
//
// A matrix is cut into tasks of four columns and some rows, by its size alone, so that neither the
// number of threads nor of samples changes a sum; sums of parts of the rows are added in their
// order.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace dgm::blocks {

constexpr int kQuad = 4;
constexpr int kRows = 8;          // of weights on their way to a thread at once
constexpr int kTasks = 256;       // of a product, where it is small: a block's threads on a GPU
constexpr int kMostTasks = 1024;  // where a large one is cut

struct alignas(16) Quad {
  float of[kQuad];
};

DGM_HOST_DEVICE Quad load(const float* p) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const Quad*>(p);
#else
  Quad q;
  std::memcpy(&q, p, sizeof(q));
  return q;
#endif
}

DGM_HOST_DEVICE void store(float* p, const Quad& q) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<Quad*>(p) = q;
#else
  std::memcpy(p, &q, sizeof(q));
#endif
}

// Of what no thread writes.
DGM_HOST_DEVICE Quad load_constant(const float* p) {
#if defined(__CUDA_ARCH__)
  const float4 v = __ldg(reinterpret_cast<const float4*>(p));
  return {{v.x, v.y, v.z, v.w}};
#else
  return load(p);
#endif
}

// How a matrix (ins, outs) is cut, into pieces of `kRows` rows and four columns; it may lie in a
// wider one. One without rows has one part, of nothing.
struct Cut {
  int ins, outs, pitch, rows, parts;

  DGM_HOST_DEVICE Cut(int64_t ins_, int64_t outs_) : Cut(ins_, outs_, outs_) {}
  DGM_HOST_DEVICE Cut(int64_t ins_, int64_t outs_, int64_t pitch_)
      : ins(static_cast<int>(ins_)),
        outs(static_cast<int>(outs_)),
        pitch(static_cast<int>(pitch_)) {
    const int chunks = ins / kRows, quads = outs / kQuad;
    const int most = 2 * quads <= kTasks ? kTasks / quads : parts_of_many(chunks, quads);
    const int each = chunks > most ? (chunks + most - 1) / most : 1;
    rows = each * kRows;
    parts = chunks > 0 ? (chunks + each - 1) / each : 1;
  }

  // Of columns so many that threads take several turns, the last of them may have few: then parts
  // of the rows make shorter turns.
  DGM_HOST_DEVICE static int parts_of_many(int chunks, int quads) {
    int best = 1, least = INT_MAX;
    for (int shift = 0; shift <= 2 && (quads << shift) <= kMostTasks; ++shift) {
      const int turns = ((quads << shift) + kTasks - 1) / kTasks;
      const int chunks_in_all = turns * ((chunks + (1 << shift) - 1) >> shift);
      if (chunks_in_all < least) {
        least = chunks_in_all;
        best = 1 << shift;
      }
    }
    return best;
  }

  // Of a matrix with so many columns, at most, whatever its rows.
  DGM_HOST_DEVICE static int most_sums(int outs) {
    const int quads = outs / kQuad;
    const int tasks = 2 * quads <= kTasks ? kTasks : kMostTasks;
    return kQuad * (quads > tasks ? quads : tasks);
  }
};

// The next rows of a thread's four columns.
struct Chunk {
  Quad row[kRows];
};

// Four columns of a matrix and some of its rows.
struct Piece {
  const float* weight;
  int step, rows;  // from row to row; how many, a multiple of kRows

  DGM_HOST_DEVICE Chunk chunk(int row) const {
    Chunk c{};
    if (row < rows) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) c.row[i] = load_constant(weight + (row + i) * step);
    }
    return c;
  }
};

template <int S>
struct Sums {
  Quad of[S];

  // Adds a piece times inputs[s * step + row]; `chunk` has the first rows.
  DGM_HOST_DEVICE void add(const Piece& piece, Chunk chunk, const float* inputs, int step) {
    // Of few samples a chunk takes longer to come than to be multiplied, so that two are on their
    // way; of more, their sums have the registers, and before Hopper there are none left either.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    constexpr bool kTwo = false;
#else
    constexpr bool kTwo = S <= 2;
#endif
    Chunk next = kTwo ? piece.chunk(kRows) : Chunk{};
    for (int row = 0; row < piece.rows; row += kRows) {
      const Chunk last = piece.chunk(row + (kTwo ? 2 : 1) * kRows);
      add(chunk, [&](int s) { return inputs + s * step + row; });
      chunk = kTwo ? next : last;
      next = last;
    }
  }

  // Adds a chunk times kRows inputs at `inputs_of(s)`.
  template <typename InputsOf>
  DGM_HOST_DEVICE void add(const Chunk& chunk, const InputsOf& inputs_of) {
#pragma unroll
    for (int i = 0; i < kRows; i += kQuad) {
#pragma unroll
      for (int s = 0; s < S; ++s) {
        const Quad x = load(inputs_of(s) + i);
#pragma unroll
        for (int k = 0; k < kQuad; ++k) {
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            of[s].of[j] = fmaf(x.of[k], chunk.row[i + k].of[j], of[s].of[j]);
          }
        }
      }
    }
  }
};

// A thread's tasks of a cut matrix, one after another.
struct Task {
  int column, part;

  // Of threads, the first task of one.
  DGM_HOST_DEVICE Task(const Cut& cut, int thread)
      : column(thread * kQuad % cut.outs), part(thread * kQuad / cut.outs) {}

  // The same, given 1 / outs: a shorter way than a division. Half a column keeps the part from
  // where rounding counts.
  DGM_HOST_DEVICE Task(const Cut& cut, int thread, float per_out)
      : part(static_cast<int>((static_cast<float>(thread * kQuad) + 0.5f) * per_out)) {
    column = thread * kQuad - part * cut.outs;
  }

  DGM_HOST_DEVICE void skip(const Cut& cut, int tasks) {
    // Of few columns each task has a thread, which would count many parts to the end.
    if (cut.parts * cut.outs <= tasks * kQuad) {
      part = cut.parts;
      return;
    }
    column += tasks * kQuad;
    while (column >= cut.outs) {
      column -= cut.outs;
      ++part;
    }
  }

  DGM_HOST_DEVICE Piece piece(const Cut& cut, const float* weight) const {
    const int first = part * cut.rows, left = cut.ins - first;
    return {weight + first * cut.pitch + column, cut.pitch, left < cut.rows ? left : cut.rows};
  }
};

// A product of a block with matrices of one size.
template <int S>
class Product {
 public:
  DGM_HOST_DEVICE Product(int64_t ins, int64_t outs, int thread, int threads, float* partial)
      : Product(Cut(ins, outs), thread, threads, partial) {}
  DGM_HOST_DEVICE Product(const Cut& cut, int thread, int threads, float* partial)
      : cut_(cut), first_(cut_, thread), threads_(threads), partial_(partial) {}

  // What this thread needs first of a matrix, to be on its way while others are waited for.
  DGM_HOST_DEVICE Chunk ahead(const float* weight) const {
    return first_.piece(cut_, weight).chunk(0);
  }

  // Leaves sums of parts of the rows for `sum`.
  DGM_HOST_DEVICE void make(
      const float* weight, const Chunk& ahead, const float* inputs, int step) const {
    Chunk chunk = ahead;
    for (Task task = first_; task.part < cut_.parts;) {
      const Piece piece = task.piece(cut_, weight);
      Sums<S> sums{};
      sums.add(piece, chunk, inputs + task.part * cut_.rows, step);
#pragma unroll
      for (int s = 0; s < S; ++s) {
        store(partial_ + (task.part * S + s) * cut_.outs + task.column, sums.of[s]);
      }
      task.skip(cut_, threads_);
      if (task.part < cut_.parts) chunk = task.piece(cut_, weight).chunk(0);
    }
  }

  DGM_HOST_DEVICE float sum(float start, int s, int column) const {
#pragma unroll 4
    for (int part = 0; part < cut_.parts; ++part) {
      start += partial_[(part * S + s) * cut_.outs + column];
    }
    return start;
  }

 private:
  Cut cut_;
  Task first_;
  int threads_;
  float* partial_;
};

}  // namespace dgm::blocks
