// Runs the GPU's sweep through a masked network on threads of a CPU: `masked_sweep_block FROM TO`.
//
// FROM holds arrays, each after its number of bytes, in the order of `main`; TO gets x, what hidden
// units hold, the sums of log-slopes and {bytes of shared memory, samples of a block, waits of a
// block, waits of a crew} likewise.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "common/block_choice.h"
#include "cpu_block.h"
#include "masked_sweep/block.h"

namespace sweep = dgm::masked_sweep;
using namespace dgm::blocks;

namespace {

struct RunAs {
  int samples, threads, warp, crew;  // of a block; threads of a sample that make its steps
  int64_t left_out, left_out_of_crew;
};

struct Waits {
  int64_t of_block, of_crew;
};

// Where the threads of a sample's crew wait, in turn as those of a block.
struct Crew {
  explicit Crew(int threads)
      : barriers{Barrier(threads), Barrier(threads), Barrier(threads), Barrier(threads)} {}

  Barrier barriers[kBarriers];
};

// Copies are there when they have been waited for, and no earlier.
class SweepBlock : public CpuBlock {
 public:
  SweepBlock(const CpuBlock& block, const RunAs& run_as, std::vector<std::unique_ptr<Crew>>& crews)
      : CpuBlock(block), run_as_(run_as), crews_(crews) {}

  int warp() const { return run_as_.warp; }
  void sync() const {
    ++waits_.of_block;
    CpuBlock::sync();
  }
  Waits waits() const { return waits_; }
  void sync_team(int sample, int threads) const {
    if (threads != run_as_.crew) throw std::runtime_error("a crew is of another size");
    const int64_t i = waits_.of_crew++;
    if (i != run_as_.left_out_of_crew) crews_[sample]->barriers[i % kBarriers].wait();
  }
  void copy(float* to, const float* from) const { copies_.push_back({to, from, 1}); }
  void copy_quad(float* to, const float* from) const { copies_.push_back({to, from, kQuad}); }
  void wait_for_copies() const {
    for (const Copy& each : copies_) std::memcpy(each.to, each.from, each.floats * sizeof(float));
    copies_.clear();
  }

 private:
  struct Copy {
    float* to;
    const float* from;
    int floats;
  };

  const RunAs& run_as_;
  std::vector<std::unique_ptr<Crew>>& crews_;
  mutable Waits waits_{};
  mutable std::vector<Copy> copies_;
};

// Returns how often the threads of a block wait.
template <int S>
Waits run(const sweep::BlockSweep& work, const RunAs& run_as) {
  Waits waits{};
  const sweep::Shared shared(work.network, work.step, S);
  for (int64_t first = 0; first < work.samples && work.begin < work.end; first += S) {
    std::vector<std::unique_ptr<Crew>> crews;
    for (int s = 0; s < S; ++s) crews.push_back(std::make_unique<Crew>(run_as.crew));
    run_block(
        sizeof(float) * shared.floats, run_as.threads, run_as.left_out, [&](const CpuBlock& block) {
          const SweepBlock one(block, run_as, crews);
          sweep::Group<S, SweepBlock>(work, shared, one, first).run();
          if (block.thread() == 0) waits = one.waits();
        });
  }
  return waits;
}

}  // namespace

int main(int, char** argv) {
  std::FILE* from = std::fopen(argv[1], "rb");
  const auto as = read<int64_t>(from);  // in the order of RunAs
  const auto processors = read<int64_t>(from);
  const auto sizes = read<int64_t>(from), skips = read<int64_t>(from);
  const auto activation = read<int64_t>(from), kind = read<int64_t>(from);
  const auto constants = read<double>(from);
  const auto span = read<int64_t>(from);  // samples, steps to go, whether levels are kept
  const auto starts = read<int64_t>(from), order = read<int64_t>(from);
  std::vector<std::vector<float>> weights;
  for (int64_t i = 0; i < sizes[3] + 1 + sizes[5]; ++i) weights.push_back(read<float>(from));
  const auto biases = read<float>(from);
  auto x = read<float>(from), levels = read<float>(from), log_det = read<float>(from);
  const auto context = read<float>(from);
  NoiseArrays noise(from);
  const auto given = read<char>(from);
  std::fclose(from);

  std::vector<const float*> matrices;
  for (const auto& each : weights) matrices.push_back(each.data());
  const int64_t samples = span[0];
  const sweep::BlockSweep work{
      sweep::network_of(
          sizes, skips, matrices, biases.data(), starts.data(), order.data(),
          static_cast<sweep::Activation>(activation[0])),
      sweep::step_of(kind, constants.data()),
      samples,
      static_cast<int>(span[1]),
      static_cast<int>(span[2]),
      data(x),
      data(levels),
      samples > 0 ? static_cast<int64_t>(levels.size()) / samples : 0,
      span[3] != 0,
      data(log_det),
      context.data(),
      noise.noise(),
      given.empty() ? nullptr : reinterpret_cast<const bool*>(given.data())};

  const RunAs run_as{
      static_cast<int>(as[0]),
      static_cast<int>(as[1]),
      static_cast<int>(as[2]),
      static_cast<int>(as[3]),
      as[4],
      as[5]};
  const Waits waits = switch_samples(
      run_as.samples, [&](auto some) { return run<decltype(some)::value>(work, run_as); });

  std::FILE* to = std::fopen(argv[2], "wb");
  write(x, to);
  write(levels, to);
  write(log_det, to);
  const auto bytes_of = [&](int some) {
    return sweep::shared_bytes(work.network, work.step, some);
  };
  const std::vector<int64_t> plan{
      bytes_of(1), samples_of_block(samples, processors[0], processors[1], bytes_of),
      waits.of_block, waits.of_crew};
  write(plan, to);
  std::fclose(to);
  return 0;
}
