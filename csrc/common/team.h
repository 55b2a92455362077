// Two threads that take each step of one task together.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "common/subnormals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dgm {

// How far a thread has come, which the other waits for without going to sleep.
class alignas(64) Progress {
 public:
  int64_t reached() const { return count_.load(std::memory_order_relaxed); }
  void reach(int64_t count) { count_.store(count, std::memory_order_release); }

  // Returns whether it came soon: not after a time that no step of the other takes, but that passes
  // where it has no processor.
  bool wait_for(int64_t count) const {
    if (came_within_pauses(count)) return true;
    const auto late = std::chrono::steady_clock::now() + std::chrono::microseconds(300);
    while (!came_within_pauses(count)) {
      if (std::chrono::steady_clock::now() < late) continue;
      while (!has_come(count)) std::this_thread::yield();
      return false;
    }
    return true;
  }

 private:
  bool has_come(int64_t count) const { return count_.load(std::memory_order_acquire) >= count; }
  bool came_within_pauses(int64_t count) const {
    for (int i = 0; i < 256; ++i) {
      if (has_come(count)) return true;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    return false;
  }

  std::atomic<int64_t> count_{0};
};

// One of the two, or of none other.
class Member {
 public:
  Member() : Member(0, 1, nullptr) {}
  Member(int64_t rank, int64_t size, Progress* of_all) : rank(rank), size(size), of_all_(of_all) {}

  // Waits until both have come here; returns whether the other came soon.
  bool wait() const {
    if (size == 1) return true;
    const int64_t count = of_all_[rank].reached() + 1;
    of_all_[rank].reach(count);
    return of_all_[1 - rank].wait_for(count);
  }

  const int64_t rank, size;

 private:
  Progress* const of_all_;
};

// Calls task(member) on two threads at the same time, or on one where torch has no other to give;
// what it does must not depend on which.
template <typename Task>
void run_team(const Task& task) {
  Progress of_all[2];
  std::atomic<bool> is_alone{false};
  torch::stable::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
    // Inside of another loop, for one, torch gives both ranks to one thread.
    if (end - begin > 1) {
      is_alone = true;
      return;
    }
    const SubnormalsAreZero mode;
    task(Member(begin, 2, of_all));
  });
  if (!is_alone) return;
  const SubnormalsAreZero mode;
  task(Member());
}

}  // namespace dgm
