// What programs that run the GPU's samplers of sequences on threads of a CPU read and write.
#pragma once

#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu_block.h"
#include "sequence_sampler/tokens.h"

namespace dgm::sequence_sampler {

using namespace blocks;

// Arrays of a file, in this order. `network` are numbers that a network's kernel is given.
struct Call {
  std::vector<int64_t> run_as, processors;     // sequences of a block, threads, wait left out; ...
  std::vector<int64_t> sizes, network, shape;  // shape: samples, steps, top_k, numbers of arrays
  std::vector<double> heat;                    // temperature, top_p
  std::vector<int64_t> inputs, given;
  std::vector<float> noise, parameters;
  std::vector<std::vector<float>> weights, states;
  std::vector<int64_t> drawn;

  explicit Call(const char* path) {
    std::FILE* from = std::fopen(path, "rb");
    run_as = read<int64_t>(from), processors = read<int64_t>(from);
    sizes = read<int64_t>(from), network = read<int64_t>(from), shape = read<int64_t>(from);
    heat = read<double>(from);
    inputs = read<int64_t>(from), given = read<int64_t>(from);
    noise = read<float>(from), parameters = read<float>(from);
    for (int64_t i = 0; i < shape[3]; ++i) weights.push_back(read<float>(from));
    for (int64_t i = 0; i < shape[4]; ++i) states.push_back(read<float>(from));
    std::fclose(from);
    drawn.resize(shape[0] * shape[1], -1);
  }

  float* weight(std::size_t i) { return data(weights[i]); }
  float* state(std::size_t i) { return data(states[i]); }

  Tokens tokens(int64_t outputs) {
    const int64_t fed = static_cast<int64_t>(inputs.size()) / shape[0];
    const Filters filters{static_cast<float>(heat[0]), shape[2], heat[1]};
    return {shape[0],    fed,         shape[1], outputs,     data(inputs),
            data(given), data(noise), filters,  data(drawn), data(parameters)};
  }

  // Calls draw(block, first) on each thread of blocks of `sequences` that share so many bytes.
  template <typename Draw>
  void run(int sequences, int64_t bytes, const Draw& draw) const {
    if (sequences != run_as[0]) return;
    for (int64_t first = 0; first < shape[0]; first += sequences) {
      run_block(bytes, static_cast<int>(run_as[1]), run_as[2], [&](const CpuBlock& block) {
        draw(block, first);
      });
    }
  }

  // Writes what was drawn, the parameters, the states and {bytes a sequence shares, sequences of a
  // block}.
  void finish(const char* path, const std::vector<int64_t>& plan) const {
    std::FILE* to = std::fopen(path, "wb");
    write(drawn, to);
    write(parameters, to);
    for (const auto& state : states) write(state, to);
    write(plan, to);
    std::fclose(to);
  }
};

}  // namespace dgm::sequence_sampler
