// Runs the GPU's sampler of recurrent networks on threads of a CPU: `recurrent_block FROM TO`, with
// the arrays of sequence_block.h.

#include <cstdint>
#include <vector>

#include "recurrent_sampler/block.h"
#include "sequence_block.h"

namespace sampler = dgm::recurrent_sampler;
using namespace dgm::sequence_sampler;

namespace {

template <int S>
void run(const Call& call, const sampler::Draw& draw) {
  call.run(S, sampler::shared_bytes(draw.network, S), [&](const CpuBlock& block, int64_t first) {
    sampler::Group<S, CpuBlock>(draw, block, first).run();
  });
}

}  // namespace

int main(int, char** argv) {
  Call call(argv[1]);
  const bool lstm = call.network[0] != 0;
  const int64_t symbols = call.network[1];
  std::vector<sampler::Layer> layers;
  for (std::size_t i = 3, h = 0; i < call.weights.size(); i += 3, h += lstm ? 2 : 1) {
    float* cell = lstm ? call.state(h + 1) : nullptr;
    layers.push_back({call.weight(i), call.weight(i + 1), call.weight(i + 2), call.state(h), cell});
  }
  const std::vector<int64_t>& n = call.sizes;
  const int64_t count = static_cast<int64_t>(layers.size());
  const sampler::Draw draw{
      {lstm,
       {n[0], n[1], n[2], count, symbols},
       call.weight(0),
       call.weight(1),
       call.weight(2),
       layers.data()},
      call.tokens(n[2])};
  run<1>(call, draw);
  run<2>(call, draw);
  run<4>(call, draw);
  run<8>(call, draw);
  call.finish(
      argv[2], {sampler::shared_bytes(draw.network, 1),
                sampler::sequences_of_block(
                    draw.network, call.shape[0], call.processors[0], call.processors[1])});
  return 0;
}
