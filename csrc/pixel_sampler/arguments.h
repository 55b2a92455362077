// The operator's boundary, the same on a CPU and a GPU.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/images.h"
#include "common/noise_arguments.h"
#include "common/scalar.h"
#include "pixel_sampler/problem.h"

namespace dgm::pixel_sampler {

using torch::stable::Tensor;

template <typename Row>
const Row* rows_of(const Tensor& table) {
  STD_TORCH_CHECK(
      table.size(1) * sizeof(int64_t) == sizeof(Row), "dgm_fast: a table of the plan is another's");
  return reinterpret_cast<const Row*>(pointer<const int64_t>(table));
}

// In the order of Sizes.
inline Sizes sizes_of(const std::vector<int64_t>& n) {
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9]};
}

inline Distribution distribution_of(const std::string& name) {
  if (name == "bernoulli") return Distribution::bernoulli;
  return name == "categorical" ? Distribution::categorical : Distribution::mixture;
}

// The operator, of which `run(draw, rows)` does the work. The number of rows done is on the CPU.
template <void (*run)(const Draw&, const Tensor&)>
void draw(
    Tensor images, Tensor rows, Tensor done, std::optional<Tensor> parameters, Tensor given,
    std::optional<Tensor> noise, std::optional<Tensor> seed, std::vector<int64_t> of_seed,
    Tensor condition, Tensor weights, Tensor places, Tensor works, Tensor taps,
    std::vector<int64_t> sizes, int64_t last, std::string output, int64_t outputs, int64_t at_once,
    int64_t levels, bool ones, double temperature, int64_t top_k, double top_p,
    double lowest_log_scale, int64_t multiply_adds) {
  int64_t* row = pointer<int64_t>(done);
  const int64_t samples = images.size(0);
  if (samples > 0 && *row < last) {
    check_is_some(noise, seed);
    const Draw work{
        {rows_of<Place>(places), rows_of<Work>(works), rows_of<Tap>(taps),
         pointer<const float>(weights), sizes_of(sizes), images.size(1) / at_once},
        {distribution_of(output),
         outputs,
         at_once,
         levels,
         ones,
         {static_cast<float>(temperature), top_k, top_p},
         static_cast<float>(lowest_log_scale)},
        samples,
        images.size(2),
        images.size(3),
        *row,
        last,
        pointer<float>(images),
        pointer<float>(rows),
        rows.size(1),
        pointer<const bool>(given),
        noise_of(noise, seed, of_seed),
        pointer<const float>(condition),
        condition.size(0) > 1 ? condition.stride(0) : 0,
        pointer<float>(parameters),
        multiply_adds};
    run(work, rows);
  }
  *row = std::max(*row, last);
}

}  // namespace dgm::pixel_sampler
