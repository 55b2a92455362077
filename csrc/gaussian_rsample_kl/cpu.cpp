// gaussian_rsample_kl on the CPU: the operators' boundary. The arithmetic is in rsample.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/buffer.h"
#include "common/isa.h"
#include "common/samples.h"
#include "common/scalar.h"
#include "common/stock.h"
#include "gaussian_rsample_kl/problem.h"

#define DGM_ISA_SOURCE "gaussian_rsample_kl/rsample.h"
#include "common/for_each_isa.h"

namespace dgm::gaussian_rsample_kl {
namespace {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Rows are read where they lie, as those of a chunk; elements apart are copied together.
void lay_in_rows(MaybeTensor& t) {
  if (t && t->size(1) > 1 && t->stride(1) != 1) t = torch::stable::contiguous(*t);
}

// A single row serves all samples.
template <typename T>
Rows<T> rows(const Tensor& t, int64_t samples) {
  const int64_t step = t.size(0) == 1 && samples != 1 ? 0 : t.stride(0);
  return {static_cast<T*>(t.data_ptr()), step};
}

template <typename T>
Rows<T> rows(const MaybeTensor& t, int64_t samples) {
  return t ? rows<T>(*t, samples) : Rows<T>{nullptr, 0};
}

struct Arguments {
  MaybeTensor mean, log_var, prior_mean, prior_log_var, noise, seed;
  int64_t sample_offset, stream;
  bool monte_carlo;
  double free_bits;

  template <typename T>
  Inputs<T> inputs() {
    for (auto* each : {&mean, &log_var, &prior_mean, &prior_log_var, &noise}) lay_in_rows(*each);
    const int64_t samples = mean->size(0);
    Noise source{{nullptr, 0}, ScalarType::Float, 0, sample_offset, stream};
    if (noise) {
      const int64_t bytes = bytes_of(noise->scalar_type());
      source.given = {static_cast<const char*>(noise->data_ptr()), noise->stride(0) * bytes};
      source.dtype = noise->scalar_type();
    } else {
      source.seed = *static_cast<const int64_t*>(seed->data_ptr());
    }
    return {
        samples,
        mean->size(1),
        rows<const T>(mean, samples),
        rows<const T>(log_var, samples),
        rows<const T>(prior_mean, samples),
        rows<const T>(prior_log_var, samples),
        source,
        monte_carlo,
        static_cast<float>(free_bits)};
  }
};

std::tuple<Tensor, Tensor> forward(
    Tensor mean, Tensor log_var, MaybeTensor prior_mean, MaybeTensor prior_log_var,
    MaybeTensor noise, MaybeTensor seed, int64_t sample_offset, int64_t stream, bool monte_carlo,
    double free_bits) {
  Arguments arguments{mean, log_var,       prior_mean, prior_log_var, noise,
                      seed, sample_offset, stream,     monte_carlo,   free_bits};
  const int64_t samples = mean.size(0);
  Tensor z = empty_matrix(samples, mean.size(1), mean.scalar_type());
  Tensor kl = torch::stable::empty({samples}, ScalarType::Float);

  switch_dtype(mean.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> problem{
        arguments.inputs<T>(), rows<T>(z, samples), static_cast<float*>(kl.data_ptr()),
        is_large(z)};
    DGM_CALL_LIVE_ISA(forward, problem);
  });
  return {z, kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    MaybeTensor grad_z, MaybeTensor grad_kl, Tensor mean, Tensor log_var, MaybeTensor prior_mean,
    MaybeTensor prior_log_var, MaybeTensor noise, MaybeTensor seed, int64_t sample_offset,
    int64_t stream, bool monte_carlo, double free_bits, std::vector<bool> needs) {
  Arguments arguments{mean, log_var,       prior_mean, prior_log_var, noise,
                      seed, sample_offset, stream,     monte_carlo,   free_bits};
  const int64_t samples = mean.size(0), elements = mean.size(1);
  const auto dtype = mean.scalar_type();
  if (grad_kl) grad_kl = torch::stable::contiguous(*grad_kl);
  lay_in_rows(grad_z);

  const MaybeTensor inputs[4] = {mean, log_var, prior_mean, prior_log_var};
  Tensor grads[4];
  for (int i = 0; i < 4; ++i) {
    grads[i] = needs[i] ? empty_matrix(inputs[i]->size(0), elements, dtype)
                        : torch::stable::empty({0, elements}, dtype);
  }

  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto wanted = [&](int i) {
      return needs[i] ? rows<T>(grads[i], samples) : Rows<T>{nullptr, 0};
    };
    const Backward<T> problem{
        arguments.inputs<T>(),
        rows<const T>(grad_z, samples),
        grad_kl ? static_cast<const float*>(grad_kl->data_ptr()) : nullptr,
        wanted(0),
        wanted(1),
        wanted(2),
        wanted(3),
        is_large(mean)};
    DGM_CALL_LIVE_ISA(backward, problem);
  });
  return {grads[0], grads[1], grads[2], grads[3]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("gaussian_rsample_kl_forward_cpp", TORCH_BOX(&forward));
  m.impl("gaussian_rsample_kl_backward_cpp", TORCH_BOX(&backward));
}

}  // namespace dgm::gaussian_rsample_kl
