// Philox random numbers on the CPU: the operator's boundary. The arithmetic is in fill.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/scalar.h"

#define DGM_ISA_SOURCE "philox/fill.h"
#include "common/for_each_isa.h"

namespace dgm::philox {
namespace {

using torch::stable::Tensor;

Tensor forward(
    Tensor seed, int64_t samples, int64_t elements, int64_t sample_offset, int64_t stream,
    bool normal, ScalarType dtype) {
  Tensor out = torch::stable::empty({samples, elements}, dtype);
  if (out.numel() == 0) return out;

  const int64_t key = *static_cast<const int64_t*>(seed.data_ptr());
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    T* data = static_cast<T*>(out.data_ptr());
    DGM_CALL_LIVE_ISA(fill, key, stream, samples, elements, sample_offset, normal, data);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) { m.impl("philox_forward_cpp", TORCH_BOX(&forward)); }

}  // namespace dgm::philox
