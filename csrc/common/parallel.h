// Run independent tasks on torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "common/subnormals.h"

namespace dgm {

// Calls task(i) once for each i in [0, count), in any order and on any thread. Threads take tasks
// as they come free, so uneven tasks balance when the heavy ones come first; a task's result must
// not depend on who runs it, which keeps results equal for any thread count.
//
// `work` is the total cost in multiply-adds: below the cost of waking threads it runs here.
template <typename Task>
void run_tasks(int64_t count, int64_t work, const Task& task) {
  constexpr int64_t kWorthAThread = 1 << 18;
  const int64_t threads = std::min<int64_t>(
      {count, torch::stable::get_num_threads(), std::max<int64_t>(1, work / kWorthAThread)});

  if (threads <= 1) {
    const SubnormalsAreZero mode;
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }

  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const SubnormalsAreZero mode;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
  });
}

// Calls task(first, count) once for each group of samples, of at most `most` each: as many groups
// as threads, or more, as equal as they can be.
template <typename Task>
void run_groups(int64_t samples, int64_t most, int64_t threads, int64_t work, const Task& task) {
  const int64_t fewest = (samples + most - 1) / most;
  const int64_t groups = std::min(samples, (fewest + threads - 1) / threads * threads);
  run_tasks(groups, work, [&](int64_t i) {
    const int64_t first = samples * i / groups;
    task(first, samples * (i + 1) / groups - first);
  });
}

}  // namespace dgm
