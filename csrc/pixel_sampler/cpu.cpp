// The sampler of PixelCNNs on the CPU. The steps are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/filters.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "pixel_sampler/arguments.h"
#include "pixel_sampler/problem.h"

#define DGM_ISA_SOURCE "pixel_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::pixel_sampler {
namespace {

void run(const Draw& draw, const Tensor&) {
  check_is_given(draw.noise);
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(pixel_sampling::draw, draw, threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("pixel_sampler_draw_cpp", TORCH_BOX(&draw<run>));
}

}  // namespace dgm::pixel_sampler
