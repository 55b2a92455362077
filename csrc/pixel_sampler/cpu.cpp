// The sampler of PixelCNNs on the CPU: the operator's boundary. The steps are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/filters.h"
#include "common/images.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "pixel_sampler/problem.h"

#define DGM_ISA_SOURCE "pixel_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::pixel_sampler {
namespace {

using torch::stable::Tensor;

template <typename Row>
const Row* rows_of(const Tensor& table) {
  STD_TORCH_CHECK(
      table.size(1) * sizeof(int64_t) == sizeof(Row), "dgm_fast: a table of the plan is another's");
  return reinterpret_cast<const Row*>(pointer<const int64_t>(table));
}

Distribution distribution_of(const std::string& name) {
  if (name == "bernoulli") return Distribution::bernoulli;
  return name == "categorical" ? Distribution::categorical : Distribution::mixture;
}

void draw(
    Tensor images, Tensor rows, Tensor done, std::optional<Tensor> parameters, Tensor given,
    Tensor noise, Tensor condition, Tensor weights, Tensor places, Tensor works, Tensor taps,
    int64_t last, std::string output, int64_t outputs, int64_t at_once, int64_t levels, bool ones,
    double temperature, double lowest_log_scale, int64_t multiply_adds) {
  int64_t* row = pointer<int64_t>(done);
  const int64_t samples = images.size(0);
  if (samples > 0 && *row < last) {
    const Draw work{
        {rows_of<Place>(places), rows_of<Work>(works), rows_of<Tap>(taps),
         pointer<const float>(weights), places.size(0), works.size(0), images.size(1) / at_once},
        {distribution_of(output), outputs, at_once, levels, noise.size(2), ones,
         static_cast<float>(temperature), static_cast<float>(lowest_log_scale)},
        samples,
        images.size(2),
        images.size(3),
        *row,
        last,
        pointer<float>(images),
        pointer<float>(rows),
        rows.size(1),
        pointer<const bool>(given),
        pointer<const float>(noise),
        pointer<const float>(condition),
        condition.size(0) > 1 ? condition.stride(0) : 0,
        pointer<float>(parameters),
        multiply_adds};
    const int64_t threads = torch::stable::get_num_threads();
    DGM_CALL_LIVE_ISA(pixel_sampling::draw, work, threads);
  }
  *row = std::max(*row, last);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) { m.impl("pixel_sampler_draw_cpp", TORCH_BOX(&draw)); }

}  // namespace dgm::pixel_sampler
