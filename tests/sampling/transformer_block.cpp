// Runs the GPU's sampler of transformers on threads of a CPU: `transformer_block FROM TO`, with the
// arrays of sequence_block.h.

#include <cstdint>
#include <vector>

#include "sequence_block.h"
#include "transformer_sampler/block.h"

namespace sampler = dgm::transformer_sampler;
using namespace dgm::sequence_sampler;

namespace {

template <int S>
void run(const Call& call, const sampler::Draw& draw) {
  const int64_t bytes = sampler::shared_bytes(draw.network.sizes, S);
  call.run(S, bytes, [&](const CpuBlock& block, int64_t first) {
    sampler::Group<S, CpuBlock>(draw, block, first).run();
  });
}

}  // namespace

int main(int, char** argv) {
  Call call(argv[1]);
  std::vector<sampler::Layer> layers;
  for (std::size_t i = 4, c = 0; i < call.weights.size(); i += 4, c += 2) {
    layers.push_back(
        {call.weight(i), call.weight(i + 1), call.weight(i + 2), call.weight(i + 3), call.state(c),
         call.state(c + 1)});
  }
  const std::vector<int64_t>& n = call.sizes;
  const int64_t count = static_cast<int64_t>(layers.size());
  const int64_t seen = call.network[0], symbols = call.network[1];
  const sampler::Sizes sizes{n[0], n[1], n[2], n[3], n[4], n[5], count, symbols};
  const sampler::Draw draw{
      {sizes, call.weight(0), call.weight(1), call.weight(2), call.weight(3), layers.data()},
      call.tokens(n[4]),
      seen};
  run<1>(call, draw);
  run<2>(call, draw);
  run<4>(call, draw);
  run<8>(call, draw);
  call.finish(
      argv[2],
      {sampler::shared_bytes(sizes, 1),
       sampler::sequences_of_block(
           sizes, call.shape[0], call.processors[0], call.processors[1])});
  return 0;
}
