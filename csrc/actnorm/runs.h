// The tasks of a walk and their runs of contiguous elements; compiled once per instruction set, so
// without a guard.

#include "common/math.h"

namespace dgm::DGM_ISA {

using actnorm::Elements;
using actnorm::Walk;

// Of a whole number of vectors, at least `count`.
DGM_INLINE int64_t whole(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Rows [first, last), which are block number `block`, and their slots [begin, end).
struct Task {
  int64_t block, first, last, begin, end;
};

// A line, or elements of a row that are a slot each, from `slot` on.
struct Run {
  int64_t row, channel, start, slot, count;

  template <typename T>
  DGM_INLINE_MEMBER T* of(const Elements<T>& elements) const {
    return elements.at(row, channel, start);
  }
};

template <typename F>
DGM_INLINE void for_each_task(const Walk& walk, const F& f) {
  constexpr int64_t kWork = 16;  // of an element, in multiply-adds: its way from memory
  const int64_t of_slot = kWork * std::max<int64_t>(1, walk.elements_of_row() / walk.slots);
  for_each_block(
      walk.rows, walk.rows_of_block(), walk.slots, walk.slots_of_task(), of_slot,
      [&](int64_t block, int64_t first, int64_t last, int64_t begin, int64_t end) {
        f(Task{block, first, last, begin, end});
      });
}

// Calls f(run) for the runs of a task in the order in which they lie in memory.
template <bool lines, typename F>
DGM_INLINE void for_each_run(const Walk& walk, const Task& task, const F& f) {
  for (int64_t row = task.first; row < task.last; ++row) {
    if constexpr (lines) {
      int64_t channel = task.begin / walk.of_channel, start = task.begin % walk.of_channel;
      start *= actnorm::kLength;
      for (int64_t slot = task.begin; slot < task.end; ++slot) {
        const int64_t count = std::min(actnorm::kLength, walk.line - start);
        f(Run{row, channel, start, slot, count});
        start += count;
        if (start == walk.line) ++channel, start = 0;
      }
    } else {
      const int64_t count = std::min(task.end, walk.slots_of(row)) - task.begin;
      if (count > 0) f(Run{row, 0, task.begin, task.begin, count});
    }
  }
}

}  // namespace dgm::DGM_ISA
