// Runs the GPU's WaveNet sampler on threads of a CPU: `wavenet_block FROM TO`.
//
// FROM holds arrays, each after its number of bytes, in the order of `main`; TO gets levels,
// parameters, rings, recent levels and {bytes of shared memory, signals of a block} likewise.

#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu_block.h"
#include "wavenet_sampler/block.h"

namespace sampler = dgm::wavenet_sampler;
using namespace dgm::blocks;

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
  auto condition = read<float>(from), features = read<float>(from);
  NoiseArrays noise(from);
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
      {output[0] != 0, output[1], output[2], {heat[0], output[3], heat[1]}, heat[2]},
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
      noise.noise(),
      data(levels),
      data(parameters)};

  const auto bytes_of = [&](int signals) { return sampler::shared_bytes(sizes, signals); };
  run_blocks<sampler::Group>(run_as, samples, draw, bytes_of);

  std::FILE* to = std::fopen(argv[2], "wb");
  write(levels, to);
  write(parameters, to);
  write(rings, to);
  write(recent, to);
  const std::vector<int64_t> plan{
      bytes_of(1), samples_of_block(samples, processors[0], processors[1], bytes_of)};
  write(plan, to);
  std::fclose(to);
  return 0;
}
