// Runs the GPU's PixelCNN sampler on threads of a CPU: `pixel_block FROM TO`.
//
// FROM holds arrays, each after its number of bytes, in the order of `main`; TO gets images, rows
// of the state, parameters and {bytes of shared memory, images of a block} likewise.

#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "cpu_block.h"
#include "pixel_sampler/block.h"

namespace sampler = dgm::pixel_sampler;
using namespace dgm::blocks;

namespace {

template <typename Row>
const Row* rows_of(const std::vector<int64_t>& table) {
  return reinterpret_cast<const Row*>(table.data());
}

}  // namespace

int main(int, char** argv) {
  std::FILE* from = std::fopen(argv[1], "rb");
  const auto run_as = read<int64_t>(from);  // images of a block, threads, wait left out
  const auto processors = read<int64_t>(from);
  const auto n = read<int64_t>(from);
  const auto output = read<int64_t>(from);
  const auto heat = read<float>(from);
  // Samples, height, width, draws of a pixel, rows done, the last, whether parameters are kept.
  const auto shape = read<int64_t>(from);
  const auto places = read<int64_t>(from), works = read<int64_t>(from), taps = read<int64_t>(from);
  auto weights = read<float>(from), condition = read<float>(from);
  auto images = read<float>(from), rows = read<float>(from);
  NoiseArrays noise(from);
  auto given = read<char>(from);
  std::fclose(from);

  const sampler::Sizes sizes{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9]};
  const int64_t samples = shape[0], pixels = samples * shape[1] * shape[2];
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> parameters(shape[6] ? pixels * shape[3] * output[1] : 0, nothing);
  std::vector<float> row_values(samples * sizes.row, nothing);
  const int64_t floats = samples > 0 ? static_cast<int64_t>(condition.size()) / samples : 0;
  const sampler::Draw draw{
      {rows_of<sampler::Place>(places), rows_of<sampler::Work>(works), rows_of<sampler::Tap>(taps),
       data(weights), sizes, shape[3]},
      {static_cast<sampler::Distribution>(output[0]),
       output[1],
       output[2],
       output[3],
       output[4] != 0,
       {heat[0], output[5], heat[1]},
       heat[2]},
      samples,
      shape[1],
      shape[2],
      shape[4],
      shape[5],
      data(images),
      data(rows),
      static_cast<int64_t>(rows.size()) / samples,
      reinterpret_cast<const bool*>(given.data()),
      noise.noise(),
      data(condition),
      floats,
      data(parameters),
      0,
      data(row_values)};

  const auto bytes_of = [&](int images) { return sampler::shared_bytes(sizes, images); };
  run_blocks<sampler::Group>(run_as, samples, draw, bytes_of);

  std::FILE* to = std::fopen(argv[2], "wb");
  write(images, to);
  write(rows, to);
  write(parameters, to);
  const std::vector<int64_t> plan{
      bytes_of(1), samples_of_block(samples, processors[0], processors[1], bytes_of)};
  write(plan, to);
  std::fclose(to);
  return 0;
}
