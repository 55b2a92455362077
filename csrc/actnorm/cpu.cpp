// Activation normalization and its statistics on the CPU: the operators' boundary. The arithmetic
// is in passes.h and statistics.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "actnorm/problem.h"
#include "common/buffer.h"
#include "common/isa.h"
#include "common/samples.h"
#include "common/scalar.h"
#include "common/stock.h"

#define DGM_ISA_SOURCE "actnorm/passes.h"
#include "common/for_each_isa.h"

namespace dgm::actnorm {
namespace {

using torch::stable::Tensor;

// What a row is of.
enum class Kind { lines, samples, pixels };

// Returns how x (B, C, P) is gone over. Results lie as x does, by the condition that op.py has.
Kind kind_of(const Tensor& x) {
  constexpr int64_t kShort = 64;
  if (x.size(1) > 1 && x.size(2) > 1 && x.stride(1) == 1) return Kind::pixels;
  return x.size(2) < kShort ? Kind::samples : Kind::lines;
}

Tensor pixels_first(const Tensor& t) { return torch::stable::transpose(t, 1, 2); }

// Returns t (B, C, P), copied unless it can be gone over so.
Tensor fit(Kind kind, const Tensor& t) {
  const int64_t samples = t.size(0), channels = t.size(1), pixels = t.size(2);
  if (kind == Kind::pixels) {
    const bool evenly = samples == 1 || t.stride(0) == pixels * t.stride(2);
    if (t.stride(1) == 1 && evenly) return t;
    return pixels_first(torch::stable::contiguous(pixels_first(t)));
  }

  const bool lines = pixels == 1 || t.stride(2) == 1;
  const bool touch = kind == Kind::lines || channels == 1 || t.stride(1) == pixels;
  return lines && touch ? t : torch::stable::contiguous(t);
}

// Returns a result as x; large ones come from the stock.
Tensor fresh_like(const Tensor& x) {
  const int64_t samples = x.size(0), channels = x.size(1), pixels = x.size(2);
  Tensor flat = empty_matrix(samples, channels * pixels, x.scalar_type());
  if (kind_of(x) != Kind::pixels) return torch::stable::view(flat, {samples, channels, pixels});
  return pixels_first(torch::stable::view(flat, {samples, pixels, channels}));
}

// The walk over tensors (B, C, P) that fit its kind.
class Path {
 public:
  Path(Kind kind, const std::vector<Tensor>& tensors) : kind_(kind) {
    const Tensor& x = tensors.front();
    const int64_t samples = x.size(0), channels = x.size(1), pixels = x.size(2);
    if (kind == Kind::lines) {
      const int64_t cuts = (pixels + kLength - 1) / kLength, slots = channels * cuts;
      walk = {true, channels, cuts, pixels, samples, slots, slots};
      return;
    }

    const bool of_pixels = kind == Kind::pixels;
    const int64_t width = of_pixels ? channels : channels * pixels;
    const int64_t rows = of_pixels ? samples * pixels : samples;
    const bool packed = std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) {
      return rows == 1 || row_stride(t) == width;
    });
    joined_ = packed ? std::min(rows, rows_to_join(width)) : 1;
    const int64_t long_rows = (rows + joined_ - 1) / joined_;
    const int64_t rest = rows - (long_rows - 1) * joined_;
    walk = {false, channels, of_pixels ? 1 : pixels, 1, long_rows, joined_ * width, rest * width};
  }

  template <typename T>
  Elements<T> elements(const Tensor& t) const {
    const int64_t of_channel = kind_ == Kind::lines ? t.stride(1) : 0;
    return {static_cast<T*>(t.data_ptr()), joined_ * row_stride(t), of_channel};
  }

  Walk walk;

 private:
  int64_t row_stride(const Tensor& t) const { return t.stride(kind_ == Kind::pixels ? 2 : 0); }

  // Of 512 elements or a few more, and of whole vectors of every width and dtype where it can be.
  static int64_t rows_to_join(int64_t width) {
    constexpr int64_t kJoined = 512, kWhole = 32;
    const int64_t rows = (kJoined + width - 1) / width, even = kWhole / std::gcd(width, kWhole);
    return even * width <= kJoined ? (rows + even - 1) / even * even : rows;
  }

  Kind kind_;
  int64_t joined_ = 1;
};

// A parameter (C,) of any dtype and stride.
std::vector<float> floats_of(const Tensor& t) {
  std::vector<float> values(t.numel());
  switch_dtype(t.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const T* p = static_cast<const T*>(t.data_ptr());
    for (int64_t i = 0; i < t.numel(); ++i) values[i] = static_cast<float>(p[i * t.stride(0)]);
  });
  return values;
}

Tensor tensor_of(const std::vector<double>& values, ScalarType dtype) {
  Tensor t = torch::stable::empty({static_cast<int64_t>(values.size())}, dtype);
  switch_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    T* p = static_cast<T*>(t.data_ptr());
    for (const double value : values) *p++ = static_cast<T>(static_cast<float>(value));
  });
  return t;
}

std::tuple<Tensor, Tensor> forward(Tensor x, Tensor log_scale, Tensor shift, bool inverse) {
  const std::vector<float> s = floats_of(log_scale), t = floats_of(shift);
  const double total = std::accumulate(s.begin(), s.end(), 0.0) * static_cast<double>(x.size(2));
  Tensor log_det = torch::stable::empty({x.size(0)}, ScalarType::Float);
  std::fill_n(
      static_cast<float*>(log_det.data_ptr()), x.size(0),
      static_cast<float>(inverse ? -total : total));

  Tensor y = fresh_like(x);
  if (x.numel() == 0) return {y, log_det};

  const Kind kind = kind_of(x);
  x = fit(kind, x);
  const Path path(kind, {x, y});
  switch_dtype(x.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Forward<T> pass{
        path.walk,           {s.data(), t.data()}, inverse, path.elements<const T>(x),
        path.elements<T>(y), is_large(y)};
    DGM_CALL_LIVE_ISA(forward, pass);
  });
  return {y, log_det};
}

// Sums over all samples, and a gradient of x; neither where no gradient of y arrives.
template <typename T>
void differentiate(
    const Tensor& grad_y, const Tensor& x, const Parameters& parameters, bool inverse,
    const std::optional<Tensor>& grad_x, const Sums& sums) {
  const Kind kind = kind_of(x);
  std::vector<Tensor> tensors{fit(kind, x), fit(kind, grad_y)};
  if (grad_x) tensors.push_back(*grad_x);
  const Path path(kind, tensors);
  const Backward<T> pass{
      path.walk,
      parameters,
      inverse,
      path.elements<const T>(tensors[1]),
      path.elements<const T>(tensors[0]),
      grad_x ? path.elements<T>(*grad_x) : Elements<T>{},
      sums,
      grad_x && is_large(*grad_x)};
  DGM_CALL_LIVE_ISA(backward, pass);
}

std::tuple<Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_y, std::optional<Tensor> grad_log_det, Tensor x, Tensor log_scale,
    Tensor shift, bool inverse, std::vector<bool> needs) {
  const std::vector<float> s = floats_of(log_scale), t = floats_of(shift);
  const int64_t channels = x.size(1);
  std::vector<double> of_shift(channels, 0.0), of_scale(channels, 0.0);
  const bool sums = needs[1] || needs[2];
  std::optional<Tensor> grad_x;
  if (needs[0]) grad_x = fresh_like(x);

  if (grad_y && x.numel() > 0) {
    switch_dtype(x.scalar_type(), [&](auto type) {
      using T = typename decltype(type)::type;
      differentiate<T>(
          *grad_y, x, {s.data(), t.data()}, inverse, grad_x,
          sums ? Sums{of_shift.data(), of_scale.data()} : Sums{});
    });
  } else if (grad_x) {
    torch::stable::zero_(*grad_x);
  }

  double of_log_det = 0.0;
  if (grad_log_det) {
    const std::vector<float> grads = floats_of(*grad_log_det);
    of_log_det = std::accumulate(grads.begin(), grads.end(), 0.0) * static_cast<double>(x.size(2));
  }
  for (int64_t c = 0; c < channels; ++c) {
    const double factor = std::exp(static_cast<double>(inverse ? -s[c] : s[c]));
    of_shift[c] = inverse ? -of_shift[c] : factor * of_shift[c];
    of_scale[c] = factor * of_scale[c] + of_log_det;
    if (inverse) of_scale[c] = -of_scale[c];
  }

  const auto result = [&](bool needed, const std::vector<double>& values) {
    return tensor_of(needed ? values : std::vector<double>{}, shift.scalar_type());
  };
  return {
      grad_x ? *grad_x : torch::stable::empty({0}, x.scalar_type()), result(needs[1], of_scale),
      result(needs[2], of_shift)};
}

std::tuple<Tensor, Tensor, Tensor> statistics(Tensor x) {
  const int64_t channels = x.size(1);
  std::vector<Moments> of_channel(channels, Moments{});
  if (x.numel() > 0) {
    const Kind kind = kind_of(x);
    x = fit(kind, x);
    const Path path(kind, {x});
    switch_dtype(x.scalar_type(), [&](auto type) {
      using T = typename decltype(type)::type;
      const Statistics<T> pass{path.walk, path.elements<const T>(x), of_channel.data()};
      DGM_CALL_LIVE_ISA(statistics, pass);
    });
  }

  std::vector<double> mean(channels), deviations(channels);
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = of_channel[c].mean;
    deviations[c] = of_channel[c].squared_deviations;
  }
  Tensor count = torch::stable::empty({}, ScalarType::Float);
  *static_cast<float*>(count.data_ptr()) =
      static_cast<float>(x.numel() / std::max<int64_t>(1, channels));
  return {tensor_of(mean, ScalarType::Float), tensor_of(deviations, ScalarType::Float), count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgm_fast, CPU, m) {
  m.impl("actnorm_forward_cpp", TORCH_BOX(&forward));
  m.impl("actnorm_backward_cpp", TORCH_BOX(&backward));
  m.impl("actnorm_statistics_forward_cpp", TORCH_BOX(&statistics));
}

}  // namespace dgm::actnorm
