// Runs the GPU's WaveNet sampler on threads of a CPU: `wavenet_block FROM TO`.
//
// FROM holds arrays, each after its number of bytes, in the order of `main`; TO gets levels,
// parameters, rings, recent levels and {bytes of shared memory, signals of a block} likewise.

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "wavenet_sampler/block.h"

namespace sampler = dgm::wavenet_sampler;

namespace {

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

template <int S>
void run(const sampler::Draw& draw, int threads, int64_t left_out) {
  const int64_t quads = sampler::shared_bytes(draw.network.sizes, S) / sizeof(sampler::Quad);
  for (int64_t first = 0; first < draw.samples; first += S) {
    std::vector<sampler::Quad> shared(quads);
    auto* floats = reinterpret_cast<float*>(shared.data());
    std::fill_n(floats, 4 * quads, std::numeric_limits<float>::quiet_NaN());
    Barrier barriers[kBarriers] = {
        Barrier(threads), Barrier(threads), Barrier(threads), Barrier(threads)};
    std::vector<std::thread> all;
    for (int thread = 0; thread < threads; ++thread) {
      all.emplace_back([&, thread] {
        const CpuBlock block(barriers, thread, threads, floats, left_out);
        sampler::Group<S, CpuBlock>(draw, block, first).run();
      });
    }
    for (std::thread& each : all) each.join();
  }
}

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

}  // namespace

int main(int, char** argv) {
  std::FILE* from = std::fopen(argv[1], "rb");
  const auto run_as = read<int64_t>(from);  // signals of a block, threads, wait left out
  const auto processors = read<int64_t>(from);
  const auto n = read<int64_t>(from);
  const auto output = read<int64_t>(from);
  const auto heat = read<float>(from);
  const auto shape = read<int64_t>(from);  // samples, steps, time, whether parameters are kept
  auto dilations = read<int64_t>(from), begins = read<int64_t>(from);
  std::vector<std::vector<float>> weights;
  for (int i = 0; i < 12; ++i) weights.push_back(read<float>(from));
  auto rings = read<float>(from);
  auto recent = read<int64_t>(from);
  auto condition = read<float>(from), features = read<float>(from), noise = read<float>(from);
  auto given = read<int64_t>(from);
  std::fclose(from);

  const auto at = [&](int i) { return data(weights[i]); };
  const int64_t layers = dilations.size(), samples = shape[0], steps = shape[1];
  const sampler::Sizes sizes{n[0], n[1], n[2], n[3], n[4], n[5], n[6], layers, n[7], n[8]};
  std::vector<int64_t> levels(given.empty() ? samples * steps : 0, -1);
  std::vector<float> parameters(given.empty() && shape[3] ? samples * steps * output[1] : 0);
  const bool alone = static_cast<int64_t>(condition.size()) > layers * 2 * sizes.gated;
  const sampler::Draw draw{
      {sizes, dilations.data(), begins.data(), at(0), at(1), at(2), at(3), at(4), at(5), at(6),
       at(7), at(8), at(9), at(10), at(11)},
      {output[0] != 0, output[1], output[2], output[3], heat[0], heat[1]},
      samples,
      steps,
      shape[2],
      data(rings),
      static_cast<int64_t>(rings.size()) / samples,
      data(recent),
      data(condition),
      alone ? layers * 2 * sizes.gated : 0,
      data(features),
      data(given),
      data(noise),
      data(levels),
      data(parameters)};

  const int threads = static_cast<int>(run_as[1]);
  if (run_as[0] == 1) run<1>(draw, threads, run_as[2]);
  if (run_as[0] == 2) run<2>(draw, threads, run_as[2]);
  if (run_as[0] == 4) run<4>(draw, threads, run_as[2]);
  if (run_as[0] == 8) run<8>(draw, threads, run_as[2]);

  std::FILE* to = std::fopen(argv[2], "wb");
  write(levels, to);
  write(parameters, to);
  write(rings, to);
  write(recent, to);
  const std::vector<int64_t> plan{
      sampler::shared_bytes(sizes, 1),
      sampler::signals_of_block(sizes, samples, processors[0], processors[1])};
  write(plan, to);
  std::fclose(to);
  return 0;
}
