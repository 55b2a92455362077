// Sampling steps on the CPU: the operators' boundary. The arithmetic is in passes.h.

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
#include "diffusion_step/problem.h"

#define DGM_ISA_SOURCE "diffusion_step/passes.h"
#include "common/for_each_isa.h"

namespace dgm::diffusion_step {
namespace {

using torch::stable::Tensor;

std::optional<Tensor> in_rows_or_none(const std::optional<Tensor>& t) {
  return t ? std::optional(in_rows(*t)) : std::nullopt;
}

// The tensors of a call, in rows, and what is made of them.
struct Call {
  Tensor x_t, prediction;
  std::optional<Tensor> unconditional, noise;
  Inputs in;

  Call(
      const Tensor& x_t_, const Tensor& prediction_, const std::optional<Tensor>& unconditional_,
      const std::optional<Tensor>& noise_, const std::optional<Tensor>& seed, const Tensor& t,
      const std::optional<Tensor>& s, const Tensor& alpha, const Tensor& sigma, int64_t target,
      double eta, bool large, bool recompute, double clip, double guidance, int64_t sample_offset,
      int64_t stream)
      : x_t(in_rows(x_t_)),
        prediction(in_rows(prediction_)),
        unconditional(in_rows_or_none(unconditional_)),
        noise(in_rows_or_none(noise_)) {
    in = {
        x_t.size(0),
        x_t.size(1),
        rows_of<const char>(x_t),
        rows_of<const char>(prediction),
        unconditional ? rows_of<const char>(*unconditional) : Rows<const char>{},
        noise_of(noise, seed, sample_offset, stream),
        Steps(t),
        s ? Steps(*s) : Steps(),
        Table(alpha),
        Table(sigma),
        static_cast<Target>(target),
        eta,
        large,
        recompute,
        static_cast<float>(clip),
        static_cast<float>(guidance)};
  }
};

Tensor forward(
    Tensor x_t, Tensor prediction, std::optional<Tensor> unconditional, std::optional<Tensor> noise,
    std::optional<Tensor> seed, Tensor t, std::optional<Tensor> s, Tensor alpha, Tensor sigma,
    int64_t target, double eta, bool large, bool recompute, double clip, double guidance,
    int64_t sample_offset, int64_t stream) {
  const Call call(
      x_t, prediction, unconditional, noise, seed, t, s, alpha, sigma, target, eta, large,
      recompute, clip, guidance, sample_offset, stream);
  Tensor x_s = empty_matrix(call.in.samples, call.in.elements, x_t.scalar_type());
  DGM_CALL_LIVE_ISA(stepping::forward, call.in, rows_of<char>(x_s));
  return x_s;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_x_s, Tensor x_t, Tensor prediction,
    std::optional<Tensor> unconditional, std::optional<Tensor> noise, std::optional<Tensor> seed,
    Tensor t, std::optional<Tensor> s, Tensor alpha, Tensor sigma, int64_t target, double eta,
    bool large, bool recompute, double clip, double guidance, int64_t sample_offset, int64_t stream,
    std::vector<bool> needs) {
  const Call call(
      x_t, prediction, unconditional, noise, seed, t, s, alpha, sigma, target, eta, large,
      recompute, clip, guidance, sample_offset, stream);
  const Tensor grad = in_rows(*grad_x_s);
  Backward pass{call.in, rows_of<const char>(grad), {}, {}, {}};

  const auto gradient = [](bool needed, ScalarType dtype, const Tensor& like, Rows<char>& rows) {
    Tensor out = needed ? empty_matrix(like.size(0), like.size(1), dtype)
                        : torch::stable::empty({0, 0}, dtype);
    if (needed) rows = rows_of<char>(out);
    return out;
  };
  const ScalarType other = (unconditional ? *unconditional : prediction).scalar_type();
  std::tuple<Tensor, Tensor, Tensor> grads{
      gradient(needs[0], x_t.scalar_type(), x_t, pass.grad_x_t),
      gradient(needs[1], prediction.scalar_type(), x_t, pass.grad_prediction),
      gradient(needs[2], other, x_t, pass.grad_unconditional)};
  DGM_CALL_LIVE_ISA(stepping::backward, pass);
  return grads;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("diffusion_step_forward_cpp", TORCH_BOX(&forward));
  m.impl("diffusion_step_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::diffusion_step
