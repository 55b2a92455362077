// The sampler of recurrent networks on the CPU. The steps are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "recurrent_sampler/arguments.h"

#define DGM_ISA_SOURCE "recurrent_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::recurrent_sampler {
namespace {

void run(const Draw& work, const Tensor&) {
  check_is_given(work.tokens.noise);
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(recurrent_sampling::draw, work, threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("recurrent_sampler_draw_cpp", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::recurrent_sampler
