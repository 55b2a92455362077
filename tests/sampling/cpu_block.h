// A block of a GPU's threads as threads of a CPU, and arrays in files.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/block_choice.h"
#include "common/block_products.h"
#include "common/noise.h"

namespace dgm::blocks {

// Where threads wait for all of them.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads), missing_(threads) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t turn = turn_;
    if (--missing_ == 0) {
      missing_ = threads_;
      ++turn_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return turn != turn_; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  const int threads_;
  int missing_;
  int64_t turn_ = 0;
};

// In turn, so that a thread that wakes late learns nothing of those that are already at the next:
// what it would learn there could hide that a wait is missing.
constexpr int kBarriers = 4;

class CpuBlock {
 public:
  CpuBlock(Barrier* barriers, int thread, int threads, float* shared, int64_t left_out)
      : barriers_(barriers),
        thread_(thread),
        threads_(threads),
        shared_(shared),
        left_out_(left_out) {}

  int thread() const { return thread_; }
  int threads() const { return threads_; }
  float* shared() const { return shared_; }
  void sync() const {
    const int64_t i = syncs_++;
    if (i != left_out_) barriers_[i % kBarriers].wait();
  }

 private:
  Barrier* const barriers_;
  const int thread_, threads_;
  float* const shared_;
  const int64_t left_out_;  // the one of its waits that it does not wait at, or -1
  mutable int64_t syncs_ = 0;
};

// Runs f(block) on each thread of a block that shares `bytes`.
template <typename F>
void run_block(int64_t bytes, int threads, int64_t left_out, const F& f) {
  std::vector<Quad> shared((bytes + sizeof(Quad) - 1) / sizeof(Quad));
  auto* floats = reinterpret_cast<float*>(shared.data());
  std::fill_n(floats, kQuad * shared.size(), std::numeric_limits<float>::quiet_NaN());
  Barrier barriers[kBarriers] = {
      Barrier(threads), Barrier(threads), Barrier(threads), Barrier(threads)};
  std::vector<std::thread> all;
  for (int thread = 0; thread < threads; ++thread) {
    all.emplace_back([&, thread] { f(CpuBlock(barriers, thread, threads, floats, left_out)); });
  }
  for (std::thread& each : all) each.join();
}

// Runs `Group` on blocks of some samples: `run_as` has samples of a block, threads and the wait
// left out, or -1; of no samples, nothing runs.
template <template <int, typename> class Group, typename Draw, typename BytesOf>
void run_blocks(
    const std::vector<int64_t>& run_as, int64_t samples, const Draw& draw,
    const BytesOf& bytes_of) {
  if (run_as[0] == 0) return;
  switch_samples(static_cast<int>(run_as[0]), [&](auto constant) {
    constexpr int S = decltype(constant)::value;
    for (int64_t first = 0; first < samples; first += S) {
      run_block(bytes_of(S), static_cast<int>(run_as[1]), run_as[2], [&](const CpuBlock& block) {
        Group<S, CpuBlock>(draw, block, first).run();
      });
    }
  });
}

// An array lies after its number of bytes.
template <typename T>
std::vector<T> read(std::FILE* from) {
  int64_t bytes = 0;
  if (std::fread(&bytes, sizeof(bytes), 1, from) != 1) throw std::runtime_error("no array");
  std::vector<T> values(bytes / sizeof(T));
  if (std::fread(values.data(), 1, bytes, from) != static_cast<size_t>(bytes)) {
    throw std::runtime_error("an array is cut short");
  }
  return values;
}

template <typename T>
void write(const std::vector<T>& values, std::FILE* to) {
  const int64_t bytes = values.size() * sizeof(T);
  std::fwrite(&bytes, sizeof(bytes), 1, to);
  std::fwrite(values.data(), 1, bytes, to);
}

template <typename T>
T* data(std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

// Noise (samples, places, each), or a seed; and the last four of Noise.
struct NoiseArrays {
  std::vector<float> given;
  std::vector<int64_t> seed, numbers;

  NoiseArrays() = default;
  explicit NoiseArrays(std::FILE* from)
      : given(read<float>(from)), seed(read<int64_t>(from)), numbers(read<int64_t>(from)) {}

  Noise noise() {
    const auto& n = numbers;
    return {data(given), data(seed), n[0], n[1], n[2], n[3]};
  }
};

}  // namespace dgm::blocks
