// The log-density of a Gaussian mixture on the CPU: the operators' boundary. The arithmetic is in
// density.h and gradients.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "gaussian_mixture_log_prob/problem.h"

#define DGM_ISA_SOURCE "gaussian_mixture_log_prob/gradients.h"
#include "common/for_each_isa.h"

namespace dgm::gaussian_mixture_log_prob {
namespace {

using torch::stable::Tensor;

template <typename T>
T* pointer(const Tensor& t) {
  return t.numel() == 0 ? nullptr : static_cast<T*>(t.data_ptr());
}

template <typename T>
Matrix<T> matrix(const Tensor& t) {
  return {static_cast<const T*>(t.data_ptr()), t.stride(0), t.dim() > 1 ? t.stride(1) : 0};
}

template <typename T>
Forward<T> problem(
    const Tensor& z, const Tensor& means, const Tensor& log_vars, const Tensor& log_weights,
    float* log_prob) {
  return {z.size(0),           means.size(0),          z.size(1), matrix<T>(z), matrix<T>(means),
          matrix<T>(log_vars), matrix<T>(log_weights), log_prob};
}

Tensor forward(Tensor z, Tensor means, Tensor log_vars, Tensor log_weights) {
  Tensor log_prob = torch::stable::empty({z.size(0)}, ScalarType::Float);
  if (log_prob.numel() == 0) return log_prob;

  switch_dtype(z.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const auto p = problem<T>(z, means, log_vars, log_weights, pointer<float>(log_prob));
    DGM_CALL_LIVE_ISA(density, p);
  });
  return log_prob;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad, Tensor z, Tensor means, Tensor log_vars, Tensor log_weights,
    std::vector<bool> needs) {
  const auto make = [&](bool need, const Tensor& like) {
    const int64_t columns = like.dim() > 1 ? like.size(1) : 1;
    Tensor found = empty_matrix(need ? like.size(0) : 0, columns, like.scalar_type());
    return like.dim() > 1 ? found : torch::stable::view(found, {found.size(0)});
  };
  Tensor grad_z = make(needs[0], z), grad_means = make(needs[1], means);
  Tensor grad_log_vars = make(needs[2], log_vars), grad_log_weights = make(needs[3], log_weights);

  Tensor grads = grad ? torch::stable::contiguous(*grad)
                      : torch::stable::new_zeros(z, {z.size(0)}, ScalarType::Float);
  switch_dtype(z.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Backward<T> p{
        problem<T>(z, means, log_vars, log_weights, nullptr),
        pointer<const float>(grads),
        pointer<T>(grad_z),
        pointer<T>(grad_means),
        pointer<T>(grad_log_vars),
        pointer<T>(grad_log_weights)};
    DGM_CALL_LIVE_ISA(gradients, p);
  });
  return {grad_z, grad_means, grad_log_vars, grad_log_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("gaussian_mixture_log_prob_forward_cpp", TORCH_BOX(&forward));
  m.impl("gaussian_mixture_log_prob_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::gaussian_mixture_log_prob
