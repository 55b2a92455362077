// Philox random numbers on an NVIDIA GPU.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "common/block_noise.h"
#include "common/cuda.h"

namespace dgm::philox {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;

__device__ void store(float* out, float value) { *out = value; }
__device__ void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }
__device__ void store(__half* out, float value) { *out = __float2half_rn(value); }

// One thread a group of four elements, striding over all samples' groups.
template <typename T, bool normal>
__global__ void __launch_bounds__(kThreads) fill_kernel(
    const int64_t* __restrict__ seed_ptr, int64_t samples, int64_t elements, int64_t groups,
    int64_t sample_offset, int64_t stream, T* __restrict__ out_ptr) {
  const PhiloxKey key(*seed_ptr, stream);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;

  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < samples * groups;
       i += step) {
    const int64_t sample = i / groups, group = i % groups;
    uint32_t w0, w1, w2, w3;
    philox_words(
        key, static_cast<uint64_t>(sample_offset + sample), static_cast<uint32_t>(group), w0, w1,
        w2, w3);

    float values[4];
    if constexpr (normal) {
      blocks::box_muller(w0, w1, values[0], values[1]);
      blocks::box_muller(w2, w3, values[2], values[3]);
    } else {
      values[0] = uniform_of_word(w0);
      values[1] = uniform_of_word(w1);
      values[2] = uniform_of_word(w2);
      values[3] = uniform_of_word(w3);
    }

    T* place = out_ptr + sample * elements + group * 4;
    const int count = static_cast<int>(min(static_cast<int64_t>(4), elements - group * 4));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < count) store(place + j, values[j]);
    }
  }
}

template <typename T>
void launch(
    const Tensor& seed, int64_t samples, int64_t elements, int64_t sample_offset, int64_t stream,
    bool normal, const Tensor& out) {
  const int64_t groups = (elements + 3) / 4;
  const int64_t blocks = std::min<int64_t>((samples * groups + kThreads - 1) / kThreads, 1 << 20);
  const auto kernel = normal ? fill_kernel<T, true> : fill_kernel<T, false>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, current_stream(out)>>>(
      static_cast<const int64_t*>(seed.data_ptr()), samples, elements, groups, sample_offset,
      stream, static_cast<T*>(out.data_ptr()));
  check_launch();
}

Tensor forward(
    Tensor seed, int64_t samples, int64_t elements, int64_t sample_offset, int64_t stream,
    bool normal, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(seed.get_device_index());
  Tensor out = torch::stable::empty({samples, elements}, dtype, std::nullopt, seed.device());
  if (out.numel() == 0) return out;

  switch (dtype) {
    case ScalarType::Float:
      launch<float>(seed, samples, elements, sample_offset, stream, normal, out);
      break;
    case ScalarType::BFloat16:
      launch<__nv_bfloat16>(seed, samples, elements, sample_offset, stream, normal, out);
      break;
    case ScalarType::Half:
      launch<__half>(seed, samples, elements, sample_offset, stream, normal, out);
      break;
    default:
      STD_TORCH_CHECK(false, "philox: no kernel for this dtype");
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CUDA, m) { m.impl("philox_forward_cuda", TORCH_BOX(&forward)); }

}  // namespace dgm::philox
