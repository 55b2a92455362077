// The diffusion loss on the CPU: the operators' boundary. The arithmetic is in passes.h.

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
#include "diffusion_loss/problem.h"

#define DGM_ISA_SOURCE "diffusion_loss/passes.h"
#include "common/for_each_isa.h"

namespace dgm::diffusion_loss {
namespace {

using torch::stable::Tensor;

// The tensors of a call, in rows, and what is made of them.
struct Call {
  Tensor prediction, x0;
  std::optional<Tensor> noise;
  Inputs in;

  Call(
      const Tensor& prediction_, const Tensor& x0_, const std::optional<Tensor>& noise_,
      const std::optional<Tensor>& seed, const Tensor& t, const Tensor& alpha, const Tensor& sigma,
      const std::optional<Tensor>& weight, int64_t target, int64_t sample_offset, int64_t stream)
      : prediction(in_rows(prediction_)), x0(in_rows(x0_)) {
    if (noise_) noise = in_rows(*noise_);
    in = {
        prediction.size(0),
        prediction.size(1),
        rows_of<const char>(prediction),
        rows_of<const char>(x0),
        noise_of(noise, seed, sample_offset, stream),
        Steps(t),
        Table(alpha),
        Table(sigma),
        weight ? Table(*weight) : Table(),
        static_cast<Target>(target)};
  }
};

Tensor forward(
    Tensor prediction, Tensor x0, std::optional<Tensor> noise, std::optional<Tensor> seed, Tensor t,
    Tensor alpha, Tensor sigma, std::optional<Tensor> weight, int64_t target, int64_t sample_offset,
    int64_t stream) {
  const Call call(
      prediction, x0, noise, seed, t, alpha, sigma, weight, target, sample_offset, stream);
  Tensor loss = torch::stable::empty({call.in.samples}, ScalarType::Float);
  DGM_CALL_LIVE_ISA(measuring::forward, call.in, static_cast<float*>(loss.data_ptr()));
  return loss;
}

std::tuple<Tensor, Tensor> backward(
    std::optional<Tensor> grad_loss, Tensor prediction, Tensor x0, std::optional<Tensor> noise,
    std::optional<Tensor> seed, Tensor t, Tensor alpha, Tensor sigma, std::optional<Tensor> weight,
    int64_t target, int64_t sample_offset, int64_t stream, std::vector<bool> needs) {
  const Call call(
      prediction, x0, noise, seed, t, alpha, sigma, weight, target, sample_offset, stream);
  const auto gradient = [](bool needed, const Tensor& like) {
    return needed ? empty_matrix(like.size(0), like.size(1), like.scalar_type())
                  : torch::stable::empty({0, 0}, like.scalar_type());
  };
  Tensor grad_prediction = gradient(needs[0], prediction), grad_x0 = gradient(needs[1], x0);

  Backward pass{
      call.in, static_cast<const float*>(grad_loss->data_ptr()), grad_loss->stride(0), {}, {}};
  if (needs[0]) pass.grad_prediction = rows_of<char>(grad_prediction);
  if (needs[1]) pass.grad_x0 = rows_of<char>(grad_x0);
  DGM_CALL_LIVE_ISA(measuring::backward, pass);
  return {grad_prediction, grad_x0};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("diffusion_loss_forward_cpp", TORCH_BOX(&forward));
  m.impl("diffusion_loss_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::diffusion_loss
