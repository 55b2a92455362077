// The forward and the backward pass; compiled once per instruction set, so without a guard.
//
// A vector of pixels goes through the components twice: for the exponents, and for what follows
// from their log-sum-exp. What the second walk needs of a component waits in the first cache, so
// that the parameters are read once.

#include "logistic_mixture_nll/bins.h"

namespace dgm::DGM_ISA {

using logistic_mixture_nll::Backward;
using logistic_mixture_nll::Inputs;

constexpr int64_t kPiece = 1024;  // pixels of one task

// The means' coefficients of a component: tanh of alpha_1, alpha_2 and alpha_3. With n = 1 -
// e^-2|alpha|, |tanh alpha| = n / (2 - n), and one division serves three.
template <int channels>
struct Coupling {
  Vec weights[3];

  template <typename Load>
  DGM_INLINE_MEMBER explicit Coupling(const Load& load_alpha) {
    if constexpr (channels == 3) {
      const Vec alpha[3] = {load_alpha(0), load_alpha(1), load_alpha(2)};
      Vec n[3], over[3];
      for (int j = 0; j < 3; ++j) {
        n[j] = -expm1(-2.0f * absolute(alpha[j]));
        over[j] = 2.0f - n[j];
      }
      const Vec reciprocal = 1.0f / (over[0] * over[1] * over[2]);
      weights[0] = with_sign_of(n[0] * (over[1] * over[2] * reciprocal), alpha[0]);
      weights[1] = with_sign_of(n[1] * (over[0] * over[2] * reciprocal), alpha[1]);
      weights[2] = with_sign_of(n[2] * (over[0] * over[1] * reciprocal), alpha[2]);
    }
  }

  DGM_INLINE_MEMBER Vec shift(int channel, const Vec* x) const {
    if (channel == 1) return weights[0] * x[0];
    if (channel == 2) return weights[1] * x[0] + weights[2] * x[1];
    return Vec{};
  }
};

// The parameters of a pixel's components, by the planes that hold them.
template <int channels, typename T>
class Parameters {
 public:
  static constexpr int kOfChannel = channels == 1 ? 2 : 3;
  enum Kind { mean, log_scale, alpha };

  DGM_INLINE_MEMBER Parameters(const T* data, int64_t plane, int64_t components, int64_t lanes)
      : data_(data), plane_(plane), components_(components), lanes_(lanes) {}

  static DGM_INLINE_MEMBER int64_t plane_of(int channel, Kind kind, int64_t components, int64_t k) {
    return components + (channel * kOfChannel + kind) * components + k;
  }

  DGM_INLINE_MEMBER Vec logit(int64_t k) const { return load_plane(k); }
  DGM_INLINE_MEMBER Vec of(int channel, Kind kind, int64_t k) const {
    return load_plane(plane_of(channel, kind, components_, k));
  }
  DGM_INLINE_MEMBER Coupling<channels> coupling(int64_t k) const {
    return Coupling<channels>([&](int channel) { return of(channel, alpha, k); });
  }

 private:
  // More planes than a processor's prefetchers follow: what is needed some vectors on is asked for
  // here. Planes often lie a power of two apart, and so on the same few lines of the first cache:
  // it goes to the second.
  DGM_INLINE_MEMBER Vec load_plane(int64_t at) const {
    constexpr int64_t kAhead = 256;  // bytes
    const T* p = data_ + at * plane_;
    __builtin_prefetch(reinterpret_cast<const char*>(p) + kAhead, 0, 2);
    return load(p, lanes_);
  }

  const T* data_;
  int64_t plane_, components_, lanes_;
};

// A component at a vector of pixels; the slopes are the backward's.
template <int channels>
struct Component {
  Vec logit, exponent;
  Vec by_mean[channels], by_log_scale[channels], by_alpha[channels];
};

template <bool slopes, int channels, typename T>
DGM_INLINE void find_component(
    const Parameters<channels, T>& params, int64_t k, const Vec* x, Component<channels>& found) {
  using P = Parameters<channels, T>;
  const Coupling<channels> coupling = params.coupling(k);
  Vec outside = params.logit(k), above = broadcast(1.0f), below = above;
  found.logit = outside;
  for (int c = 0; c < channels; ++c) {
    const Vec given = params.of(c, P::log_scale, k);
    const Vec log_scale = at_least(given, broadcast(kMinLogScale));
    Vec mean = params.of(c, P::mean, k);
    if (channels == 3) mean += coupling.shift(c, x);
    const Bin bin(x[c], mean, log_scale);
    outside += bin.outside(log_scale);
    above *= bin.numerator();
    below *= bin.denominator();
    if constexpr (slopes) {
      Vec by_log_scale;
      bin.differentiate(found.by_mean[c], by_log_scale);
      found.by_log_scale[c] = given < kMinLogScale ? Vec{} : by_log_scale;
    }
  }
  found.exponent = outside + log(above / below);

  if constexpr (slopes && channels == 3) {
    // alpha_1 moves the second mean by x_1, alpha_2 and alpha_3 the third by x_1 and x_2.
    const Vec moved[3] = {
        found.by_mean[1] * x[0], found.by_mean[2] * x[0], found.by_mean[2] * x[1]};
    for (int j = 0; j < 3; ++j) {
      const Vec w = coupling.weights[j];
      found.by_alpha[j] = moved[j] * (1.0f - w * w);
    }
  }
}

// The logarithms of the sums of exponentials of all logits and of all exponents.
struct Totals {
  Vec logits, exponents;
};

template <int channels>
DGM_INLINE Totals add_up(const Component<channels>* components, int64_t count) {
  Vec logit = components[0].logit, exponent = components[0].exponent;
  for (int64_t k = 1; k < count; ++k) {
    logit = at_least(components[k].logit, logit);
    exponent = at_least(components[k].exponent, exponent);
  }
  // Minus infinities alone have no difference.
  const Vec from_logit = logit == -__builtin_inff() ? Vec{} : logit;
  const Vec from_exponent = exponent == -__builtin_inff() ? Vec{} : exponent;
  Vec logits{}, exponents{};
  for (int64_t k = 0; k < count; ++k) {
    logits += exp(components[k].logit - from_logit);
    exponents += exp(components[k].exponent - from_exponent);
  }
  return {from_logit + log(logits), from_exponent + log(exponents)};
}

// Calls pixels(place, lanes, components) for every vector of pixels of a piece, with what it finds
// of the components there; returns the sum of what it returns.
template <bool slopes, int channels, typename T, typename Pixels>
DGM_INLINE float walk(
    const Inputs<T>& p, int64_t s, int64_t begin, int64_t end, const Pixels& pixels) {
  Buffer place(p.components * sizeof(Component<channels>) / sizeof(float));
  auto* components = reinterpret_cast<Component<channels>*>(place.data());
  Vec sums{};
  for_each_vector(end - begin, [&](int64_t j, int64_t lanes) {
    const int64_t i = begin + j;
    Vec x[channels];
    for (int c = 0; c < channels; ++c) x[c] = load(p.x.at(s, c) + i, lanes);
    const Parameters<channels, T> params(
        p.params.at(s, 0) + i, p.params.of_channel, p.components, lanes);
    for (int64_t k = 0; k < p.components; ++k) {
      find_component<slopes>(params, k, x, components[k]);
    }
    sums += first(pixels(i, lanes, components), lanes);
  });
  return sum(sums);
}

template <int channels, typename T>
static void forward_of(const Inputs<T>& p, float* nll) {
  const int64_t work = p.components * channels * 100;
  for_each_sample(
      p.samples, p.pixels, kPiece, work, nll, [&](int64_t s, int64_t begin, int64_t end) {
        return walk<false, channels>(
            p, s, begin, end, [&](int64_t, int64_t, const Component<channels>* components) {
              const Totals totals = add_up(components, p.components);
              return totals.logits - totals.exponents;
            });
      });
}

template <typename T>
static void forward(const Inputs<T>& p, int64_t channels, float* nll) {
  channels == 1 ? forward_of<1>(p, nll) : forward_of<3>(p, nll);
}

// Writes the gradients at a vector of pixels.
template <int channels, typename T>
DGM_INLINE void differentiate_pixels(
    const Backward<T>& p, int64_t s, int64_t i, int64_t lanes,
    const Component<channels>* components) {
  using P = Parameters<channels, T>;
  const Totals totals = add_up(components, p.in.components);
  const Vec grad = broadcast(p.grad_nll[s * p.grad_step]);
  T* out = p.grad_params.at(s, 0) + i;
  const auto write = [&](int64_t plane, Vec v) {
    T* place = out + plane * p.grad_params.of_channel;
    put(place, v, lanes, p.streams && is_aligned(place));
  };

  for (int64_t k = 0; k < p.in.components; ++k) {
    const Component<channels>& of = components[k];
    const Vec share = exp(of.exponent - totals.exponents), pull = -grad * share;
    write(k, grad * (exp(of.logit - totals.logits) - share));
    for (int c = 0; c < channels; ++c) {
      const auto plane = [&](typename P::Kind kind) {
        return P::plane_of(c, kind, p.in.components, k);
      };
      write(plane(P::mean), pull * of.by_mean[c]);
      write(plane(P::log_scale), pull * of.by_log_scale[c]);
      if constexpr (channels == 3) write(plane(P::alpha), pull * of.by_alpha[c]);
    }
  }
}

template <int channels, typename T>
static void backward_of(const Backward<T>& p) {
  const int64_t work = p.in.components * channels * 150;
  for_each_sample(
      p.in.samples, p.in.pixels, kPiece, work, nullptr, [&](int64_t s, int64_t begin, int64_t end) {
        walk<true, channels>(
            p.in, s, begin, end,
            [&](int64_t i, int64_t lanes, const Component<channels>* components) {
              differentiate_pixels(p, s, i, lanes, components);
              return Vec{};
            });
        if (p.streams) streams_are_done();
        return 0.0f;
      });
}

template <typename T>
static void backward(const Backward<T>& p, int64_t channels) {
  channels == 1 ? backward_of<1>(p) : backward_of<3>(p);
}

}  // namespace dgm::DGM_ISA
