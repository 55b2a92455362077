// The dtypes kernels compute, as C++ types that convert to and from float.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace dgm {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;
using torch::headeronly::ScalarType;

template <typename T>
struct Type {
  using type = T;
};

// Calls f(Type<float>{}), f(Type<BFloat16>{}) or f(Type<Half>{}).
template <typename F>
void switch_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(Type<float>{});
    case ScalarType::BFloat16:
      return f(Type<BFloat16>{});
    case ScalarType::Half:
      return f(Type<Half>{});
    default:
      STD_TORCH_CHECK(false, "dgm_fast: no kernel for this dtype");
  }
}

inline int64_t bytes_of(ScalarType dtype) {
  int64_t bytes = 0;
  switch_dtype(dtype, [&](auto type) { bytes = sizeof(typename decltype(type)::type); });
  return bytes;
}

}  // namespace dgm
