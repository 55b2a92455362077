// Noising on the CPU: the operators' boundary. The arithmetic is in passes.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/isa.h"
#include "common/samples.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "diffusion_noise/problem.h"

#define DGM_ISA_SOURCE "diffusion_noise/passes.h"
#include "common/for_each_isa.h"

namespace dgm::diffusion_noise {
namespace {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor> forward(
    Tensor x0, std::optional<Tensor> noise, std::optional<Tensor> seed, Tensor t, Tensor alpha,
    Tensor sigma, int64_t target, int64_t sample_offset, int64_t stream, ScalarType dtype) {
  x0 = in_rows(x0);
  if (noise) noise = in_rows(*noise);
  const auto wanted = static_cast<Target>(target);
  const int64_t samples = x0.size(0), elements = x0.size(1);
  Tensor x_t = empty_matrix(samples, elements, dtype);
  Tensor made = wanted == Target::nothing ? torch::stable::empty({0}, dtype)
                                          : empty_matrix(samples, elements, dtype);

  Forward pass{
      samples,
      elements,
      rows_of<const char>(x0),
      noise_of(noise, seed, sample_offset, stream),
      Steps(t),
      Table(alpha),
      Table(sigma),
      wanted,
      rows_of<char>(x_t),
      {}};
  if (wanted != Target::nothing) pass.made = rows_of<char>(made);
  DGM_CALL_LIVE_ISA(noising::forward, pass);
  return {x_t, made};
}

Tensor backward(
    std::optional<Tensor> grad_x_t, std::optional<Tensor> grad_target, Tensor x0,
    std::optional<Tensor>, std::optional<Tensor>, Tensor t, Tensor alpha, Tensor sigma,
    int64_t target, int64_t, int64_t, ScalarType, std::vector<bool>) {
  Tensor grad_x0 = empty_matrix(x0.size(0), x0.size(1), x0.scalar_type());
  Backward pass{
      x0.size(0),
      x0.size(1),
      {},
      {},
      Steps(t),
      Table(alpha),
      Table(sigma),
      static_cast<Target>(target),
      rows_of<char>(grad_x0)};
  if (grad_x_t) {
    grad_x_t = in_rows(*grad_x_t);
    pass.grad_x_t = rows_of<const char>(*grad_x_t);
  }
  if (grad_target && pass.target != Target::nothing) {
    grad_target = in_rows(*grad_target);
    pass.grad_target = rows_of<const char>(*grad_target);
  }
  DGM_CALL_LIVE_ISA(noising::backward, pass);
  return grad_x0;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("diffusion_noise_forward_cpp", TORCH_BOX(&forward));
  m.impl("diffusion_noise_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::diffusion_noise
