// Runs the GPU's samplers of sequences on threads of a CPU: `sequence_block FROM TO`.
//
// FROM holds arrays, each after its number of bytes, in the order of Call; TO gets what was drawn,
// the parameters, the states and {bytes a sequence shares, sequences of a block} likewise.

#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu_block.h"
#include "recurrent_sampler/block.h"
#include "transformer_sampler/block.h"

namespace recurrent = dgm::recurrent_sampler;
namespace transformer = dgm::transformer_sampler;
using namespace dgm::sequence_sampler;
using namespace dgm::blocks;

namespace {

// Arrays of a file. `number` is whether cells are an LSTM's, or of a transformer the inputs seen.
struct Call {
  std::vector<int64_t> run_as, processors;  // sequences of a block, threads, wait left out; ...
  std::vector<int64_t> network, sizes;      // whether it is recurrent, number, whether places are
                                            // fed together; as of the operator
  std::vector<int64_t> shape;               // samples, steps, top_k, symbols, weights, states
  std::vector<double> heat;                 // temperature, top_p
  std::vector<int64_t> inputs, given;
  NoiseArrays noise;
  std::vector<float> parameters;
  std::vector<std::vector<float>> weights, states;
  std::vector<int64_t> drawn;

  explicit Call(const char* path) {
    std::FILE* from = std::fopen(path, "rb");
    run_as = read<int64_t>(from), processors = read<int64_t>(from);
    network = read<int64_t>(from), sizes = read<int64_t>(from), shape = read<int64_t>(from);
    heat = read<double>(from);
    inputs = read<int64_t>(from), given = read<int64_t>(from);
    noise = NoiseArrays(from);
    parameters = read<float>(from);
    for (int64_t i = 0; i < shape[4]; ++i) weights.push_back(read<float>(from));
    for (int64_t i = 0; i < shape[5]; ++i) states.push_back(read<float>(from));
    std::fclose(from);
    drawn.resize(shape[0] * shape[1], -1);
  }

  float* weight(std::size_t i) { return data(weights[i]); }
  float* state(std::size_t i) { return data(states[i]); }

  Tokens tokens(int64_t outputs) {
    const int64_t fed = static_cast<int64_t>(inputs.size()) / shape[0];
    const dgm::Filters filters{static_cast<float>(heat[0]), shape[2], heat[1]};
    return {shape[0],    fed,           shape[1], outputs,     data(inputs),
            data(given), noise.noise(), filters,  data(drawn), data(parameters)};
  }

  void finish(const char* path, int64_t bytes, int64_t sequences) const {
    std::FILE* to = std::fopen(path, "wb");
    write(drawn, to);
    write(parameters, to);
    for (const auto& state : states) write(state, to);
    write(std::vector<int64_t>{bytes, sequences}, to);
    std::fclose(to);
  }
};

void run_recurrent(Call& call, const char* to) {
  const bool lstm = call.network[1] != 0;
  std::vector<recurrent::Layer> layers;
  for (std::size_t i = 3, h = 0; i < call.weights.size(); i += 3, h += lstm ? 2 : 1) {
    float* cell = lstm ? call.state(h + 1) : nullptr;
    layers.push_back({call.weight(i), call.weight(i + 1), call.weight(i + 2), call.state(h), cell});
  }
  const auto& n = call.sizes;
  const int64_t count = static_cast<int64_t>(layers.size());
  const recurrent::Network network{lstm,           {n[0], n[1], n[2], count, call.shape[3]},
                                   call.weight(0), call.weight(1),
                                   call.weight(2), layers.data()};
  const auto bytes_of = [&](int64_t sequences) {
    return recurrent::shared_bytes(network, sequences);
  };
  const recurrent::Draw draw{network, call.tokens(n[2])};
  run_blocks<recurrent::Group>(call.run_as, call.shape[0], draw, bytes_of);
  const auto& processors = call.processors;
  call.finish(
      to, bytes_of(1), samples_of_block(call.shape[0], processors[0], processors[1], bytes_of));
}

void run_transformer(Call& call, const char* to) {
  std::vector<transformer::Layer> layers;
  for (std::size_t i = 4, c = 0; i < call.weights.size(); i += 4, c += 2) {
    layers.push_back(
        {call.weight(i), call.weight(i + 1), call.weight(i + 2), call.weight(i + 3), call.state(c),
         call.state(c + 1)});
  }
  const auto& n = call.sizes;
  const int64_t count = static_cast<int64_t>(layers.size());
  const transformer::Sizes sizes{n[0], n[1], n[2], n[3], n[4], n[5], count, call.shape[3]};
  const transformer::Network network{sizes,          call.weight(0), call.weight(1),
                                     call.weight(2), call.weight(3), layers.data()};
  const auto bytes_of = [&](int64_t sequences) {
    return transformer::shared_bytes(sizes, sequences);
  };
  const bool feeds_together = call.network[2] != 0;
  const transformer::Draw draw{network, call.tokens(n[4]), call.network[1], feeds_together};
  const auto bytes_to_run = [&](int64_t sequences) {
    return bytes_of(feeds_together ? kMostSamples : sequences);
  };
  run_blocks<transformer::Group>(call.run_as, call.shape[0], draw, bytes_to_run);
  const auto& processors = call.processors;
  call.finish(
      to, bytes_of(1), samples_of_block(call.shape[0], processors[0], processors[1], bytes_of));
}

}  // namespace

int main(int, char** argv) {
  Call call(argv[1]);
  if (call.network[0] != 0) {
    run_recurrent(call, argv[2]);
  } else {
    run_transformer(call, argv[2]);
  }
  return 0;
}
