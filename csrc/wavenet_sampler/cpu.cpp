// The sampler of WaveNet on the CPU: the steps are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "common/buffer.h"
#include "common/filters.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/team.h"
#include "wavenet_sampler/arguments.h"
#include "wavenet_sampler/problem.h"

#define DGM_ISA_SOURCE "wavenet_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::wavenet_sampler {
namespace {

void run(const Draw& work, const Tensor&) {
  check_is_given(work.noise);
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(sampling::draw, work, threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("wavenet_sampler_draw_cpp", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::wavenet_sampler
