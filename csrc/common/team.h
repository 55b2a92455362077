// Threads that take each step of one task together.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "common/subnormals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dgm {

// How far a thread has come, which others wait for without going to sleep.
class alignas(64) Progress {
 public:
  int64_t reached() const { return count_.load(std::memory_order_relaxed); }
  void reach(int64_t count) { count_.store(count, std::memory_order_release); }

  // Returns whether it came soon: within microseconds, unless the other has no processor.
  bool wait_for(int64_t count) const {
    constexpr int kPatience = 1024;
    int i = 0;
    for (; count_.load(std::memory_order_acquire) < count; ++i) {
      i < kPatience ? pause() : std::this_thread::yield();
    }
    return i <= kPatience;
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  std::atomic<int64_t> count_{0};
};

// One of a team.
class Member {
 public:
  // None but itself.
  Member() : Member(0, 1, nullptr) {}
  Member(int64_t rank, int64_t size, Progress* of_all) : rank(rank), size(size), of_all_(of_all) {}

  // Waits until all have come here; returns whether they came soon.
  bool wait() const {
    if (size == 1) return true;
    const int64_t count = of_all_[rank].reached() + 1;
    of_all_[rank].reach(count);
    bool is_soon = true;
    for (int64_t other = 0; other < size; ++other) is_soon &= of_all_[other].wait_for(count);
    return is_soon;
  }

  const int64_t rank, size;

 private:
  Progress* const of_all_;
};

// Calls task(member) on so many threads at the same time, or on one where torch has no more to
// give; what it does must not depend on how many there are.
template <typename Task>
void run_team(int64_t threads, const Task& task) {
  if (threads > 1) {
    std::vector<Progress> of_all(threads);
    std::atomic<bool> is_alone{false};
    torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      // Inside of another loop, for one, torch gives all ranks to one thread.
      if (end - begin > 1) {
        is_alone = true;
        return;
      }
      const SubnormalsAreZero mode;
      task(Member(begin, threads, of_all.data()));
    });
    if (!is_alone) return;
  }
  const SubnormalsAreZero mode;
  task(Member());
}

}  // namespace dgm
