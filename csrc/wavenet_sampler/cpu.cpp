// The sampler of WaveNet on the CPU: the operator's boundary. The steps are in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/images.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "wavenet_sampler/problem.h"

#define DGM_ISA_SOURCE "wavenet_sampler/passes.h"
#include "common/for_each_isa.h"

namespace dgm::wavenet_sampler {
namespace {

using torch::stable::Tensor;

template <typename T>
const T* read(const std::optional<Tensor>& t) {
  return pointer<const T>(t);
}

// `weights` and `sizes` lie in the order of Network and Sizes.
Network network_of(
    const std::vector<Tensor>& weights, const std::vector<int64_t>& sizes,
    std::vector<int64_t> dilations) {
  const int64_t layers = static_cast<int64_t>(dilations.size());
  std::vector<int64_t> rings;
  int64_t begin = 0;
  for (int64_t dilation : dilations) {
    rings.push_back(begin);
    begin += (sizes[2] - 1) * dilation * sizes[0];
  }

  const auto at = [&](int i) { return pointer<const float>(weights[i]); };
  return {
      {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], layers, sizes[7],
       sizes[8]},
      std::move(dilations),
      std::move(rings),
      at(0),
      at(1),
      at(2),
      at(3),
      at(4),
      at(5),
      at(6),
      at(7),
      at(8),
      at(9),
      at(10),
      at(11)};
}

std::tuple<Tensor, Tensor> draw(
    Tensor rings, Tensor recent, std::vector<Tensor> weights, std::vector<int64_t> sizes,
    std::vector<int64_t> dilations, Tensor condition, std::optional<Tensor> features,
    std::optional<Tensor> given, std::optional<Tensor> noise, int64_t time, int64_t outputs,
    int64_t levels, bool mixture, double temperature, double lowest_log_scale, bool keep) {
  const int64_t samples = rings.size(0), steps = (given ? *given : *noise).size(1);
  Tensor drawn = torch::stable::empty({samples, given ? 0 : steps}, ScalarType::Long);
  Tensor parameters =
      torch::stable::empty({samples, keep && !given ? steps : 0, outputs}, ScalarType::Float);
  if (samples == 0 || steps == 0) return {drawn, parameters};

  const Draw work{
      network_of(weights, sizes, std::move(dilations)),
      {mixture, outputs, levels, noise ? noise->size(2) : 0, static_cast<float>(temperature),
       static_cast<float>(lowest_log_scale)},
      samples,
      steps,
      time,
      pointer<float>(rings),
      rings.size(1),
      pointer<int64_t>(recent),
      pointer<const float>(condition),
      condition.size(0) > 1 ? condition.stride(0) : 0,
      read<float>(features),
      read<int64_t>(given),
      read<float>(noise),
      pointer<int64_t>(drawn),
      pointer<float>(parameters)};
  const int64_t threads = torch::stable::get_num_threads();
  DGM_CALL_LIVE_ISA(sampling::draw, work, threads);
  return {drawn, parameters};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("wavenet_sampler_draw_cpp", TORCH_BOX(&draw));
}

}  // namespace dgm::wavenet_sampler
