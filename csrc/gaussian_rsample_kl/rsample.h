// Draw z and measure kl, forward and backward; compiled once per instruction set, so without a
// guard.

#include "common/normals.h"

namespace dgm::DGM_ISA {

using gaussian_rsample_kl::Backward;
using gaussian_rsample_kl::Forward;
using gaussian_rsample_kl::Inputs;
using gaussian_rsample_kl::Noise;
using gaussian_rsample_kl::Rows;

constexpr int64_t kChunk = 4096;  // elements of a task
constexpr int64_t kDrawn = 512;   // normals made at a time
constexpr int64_t kWork = 64;     // multiply-adds that take as long as an element
constexpr int64_t kParts = 64;    // of a sum over samples

// What z, kl and their gradients are made of.
struct Element {
  Vec std;        // e^(log_var / 2)
  Vec scale;      // 1 over the prior's
  Vec offset;     // (mean - prior_mean) scale
  Vec log_ratio;  // log_var - prior_log_var
  Vec ratio;      // e^(log_ratio / 2)
  Vec growth;     // ratio - 1
  Vec excess;     // e^log_ratio - 1 - log_ratio
};

// Lemma. Let b = log_ratio / 2 and e^b - 1 = b + rest: then growth = b + rest and excess =
// growth^2 + 2 rest. For small b rest is b^2 times a polynomial, so that nothing cancels, however
// close the Gaussians are. From |b| = 0.34 on, the 1 and b can be subtracted: growth loses a factor
// of at most 3.5, excess one of 7.
template <bool prior>
DGM_INLINE Element element(Vec mean, Vec log_var, Vec prior_mean, Vec prior_log_var) {
  Element x;
  Vec n;
  Vec b = reduce_by_ln2(0.5f * log_var, n), rest = b * b * expm1_tail(b);
  x.std = times_power_of_two(1.0f + (b + rest), n);
  // Without a prior the exponential has done this sum already.
  VecInt near = n == 0.0f;
  x.offset = mean;
  x.log_ratio = log_var;
  x.ratio = x.std;

  if constexpr (prior) {
    x.scale = exp(-0.5f * prior_log_var);
    x.offset = (mean - prior_mean) * x.scale;
    x.log_ratio = log_var - prior_log_var;
    x.ratio = x.std * x.scale;
    b = 0.5f * x.log_ratio;
    rest = b * b * expm1_tail(b);
    near = absolute(b) <= 0.34f;
  }

  x.growth = near ? b + rest : x.ratio - 1.0f;
  x.excess = x.growth * x.growth + 2.0f * (near ? rest : x.growth - 0.5f * x.log_ratio);
  return x;
}

// Writes the noise of elements [begin, end) of `count` samples, each sample's from a multiple of 4.
DGM_INLINE void read_noise(
    const Noise& noise, int64_t sample, int64_t count, int64_t begin, int64_t end, float* out) {
  const int64_t groups = (end - begin + 3) / 4;
  if (!noise.given) {
    const PhiloxKey key(noise.seed, noise.stream);
    const auto first = static_cast<uint64_t>(noise.sample_offset + sample);
    draw_rows<true>(key, first, count, static_cast<uint32_t>(begin / 4), groups, out);
    return;
  }

  switch_dtype(noise.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    for (int64_t i = 0; i < count; ++i) {
      const T* row = reinterpret_cast<const T*>(noise.given.row(sample + i)) + begin;
      for (int64_t e = 0; e < end - begin; e += kLanes) {
        store(out + i * 4 * groups + e, load(row + e, end - begin - e));
      }
    }
  });
}

// Calls row(sample, begin, end, noise) for the elements [begin, end) of samples [first, last), in
// parts whose noise it makes first.
template <typename Row>
DGM_INLINE void with_noise(
    const Noise& noise, bool wanted, int64_t first, int64_t last, int64_t begin, int64_t end,
    const Row& row) {
  // Whole batches are drawn, and whole vectors read.
  alignas(64) float buffer[kDrawn + kLine];
  const int64_t width = std::min(kDrawn, std::max<int64_t>(4, (end - begin + 3) / 4 * 4));
  const int64_t rows = kDrawn / width;

  for (int64_t s = first; s < last; s += rows) {
    const int64_t count = std::min(rows, last - s);
    int64_t from = begin;
    do {
      const int64_t to = std::min(from + width, end);
      if (wanted) read_noise(noise, s, count, from, to, buffer);
      for (int64_t i = 0; i < count; ++i) row(s + i, from, to, buffer + i * width);
      from = to;
    } while (from < end);
  }
}

// Calls step(element, count) with count = kLanes but for the last vector of [begin, end).
template <typename Step>
DGM_INLINE void for_each_vector(int64_t begin, int64_t end, const Step& step) {
  int64_t e = begin;
  for (; e + kLanes <= end; e += kLanes) step(e, kLanes);
  if (e < end) step(e, end - e);
}

template <typename T, bool prior>
DGM_INLINE Element load_element(const Inputs<T>& in, int64_t sample, int64_t e, int64_t count) {
  // What the next part needs arrives while its noise is drawn.
  read_ahead(in.mean.row(sample) + e);
  read_ahead(in.log_var.row(sample) + e);
  const Vec mean = load(in.mean.row(sample) + e, count);
  const Vec log_var = load(in.log_var.row(sample) + e, count);
  if constexpr (!prior) return element<false>(mean, log_var, Vec{}, Vec{});
  return element<true>(
      mean, log_var, load(in.prior_mean.row(sample) + e, count),
      load(in.prior_log_var.row(sample) + e, count));
}

// Returns the sum of kl over [begin, end).
template <typename T, bool prior, bool monte_carlo>
DGM_INLINE float forward_row(
    const Forward<T>& p, int64_t sample, int64_t begin, int64_t end, const float* noise) {
  const float least = 2.0f * p.in.free_bits;
  const bool streams = p.streams && is_aligned(p.z.row(sample) + begin);
  Vec twice{};
  for_each_vector(begin, end, [&](int64_t e, int64_t count) {
    const Element x = load_element<T, prior>(p.in, sample, e, count);
    const Vec eps = load(noise + (e - begin));
    const Vec z = load(p.in.mean.row(sample) + e, count) + x.std * eps;
    put(p.z.row(sample) + e, z, count, streams);

    Vec term;
    if constexpr (monte_carlo) {
      const Vec y = x.offset + x.growth * eps;
      term = y * (y + 2.0f * eps) - x.log_ratio;
    } else {
      term = x.excess + x.offset * x.offset;
      if (least > 0.0f) term = at_least(term, broadcast(least));
    }
    twice += first(term, count);
  });
  return 0.5f * sum(twice);
}

template <typename T, bool prior, bool monte_carlo>
static void forward_all(const Forward<T>& p) {
  const Inputs<T>& in = p.in;
  sum_each_block(
      in.samples, in.elements, kChunk, kWork, p.kl,
      [&](int64_t first, int64_t last, int64_t begin, int64_t end, float* sums) {
        std::fill(sums, sums + (last - first), 0.0f);
        with_noise(
            in.noise, true, first, last, begin, end,
            [&](int64_t s, int64_t from, int64_t to, const float* noise) {
              sums[s - first] += forward_row<T, prior, monte_carlo>(p, s, from, to, noise);
            });
        if (p.streams) streams_are_done();
      });
}

// Adds an element's share to the gradient of a row that all samples have, or writes a row's own.
// The sums start where the noise does, at element `begin`.
template <typename T>
DGM_INLINE void give(
    float* sums, Rows<T> grad, int64_t sample, int64_t e, int64_t begin, Vec value, int64_t count) {
  if (sums != nullptr) {
    store(sums + (e - begin), load(sums + (e - begin)) + value);
  } else if (grad) {
    store(grad.row(sample) + e, value, count);
  }
}

// Writes the gradients of [begin, end) but for those of shared rows, which it adds to the sums.
template <typename T, bool prior, bool monte_carlo>
DGM_INLINE void backward_row(
    const Backward<T>& p, int64_t sample, int64_t begin, int64_t end, const float* noise,
    float* sums_mean, float* sums_log_var) {
  const float grad_kl = p.grad_kl != nullptr ? p.grad_kl[sample] : 0.0f;
  const float least = 2.0f * p.in.free_bits;
  // Gradients that are not wanted count as aligned.
  const bool streams = p.streams && is_aligned(p.grad_mean.row(sample) + begin) &&
                       is_aligned(p.grad_log_var.row(sample) + begin);

  for_each_vector(begin, end, [&](int64_t e, int64_t count) {
    const Element x = load_element<T, prior>(p.in, sample, e, count);
    const Vec eps = load(noise + (e - begin));
    Vec grad_mean{}, grad_log_var{}, grad_prior_log_var{};

    if (p.grad_kl != nullptr) {
      Vec to_mean = x.offset, to_log_var = x.growth * (x.growth + 2.0f);
      Vec to_prior = -(to_log_var + x.offset * x.offset);
      if constexpr (monte_carlo) {
        // (z - prior_mean) over the prior's standard deviation.
        to_mean = x.offset + x.ratio * eps;
        to_log_var = to_mean * (x.ratio * eps) - 1.0f;
        to_prior = 1.0f - to_mean * to_mean;
      } else if (least > 0.0f) {
        const VecInt below = x.excess + x.offset * x.offset < least;
        to_mean = below ? Vec{} : to_mean;
        to_log_var = below ? Vec{} : to_log_var;
        to_prior = below ? Vec{} : to_prior;
      }
      grad_mean = grad_kl * to_mean;
      if constexpr (prior) grad_mean *= x.scale;
      grad_log_var = (0.5f * grad_kl) * to_log_var;
      grad_prior_log_var = (0.5f * grad_kl) * to_prior;
    }

    if constexpr (prior) {
      give(sums_mean, p.grad_prior_mean, sample, e, begin, -grad_mean, count);
      give(sums_log_var, p.grad_prior_log_var, sample, e, begin, grad_prior_log_var, count);
    }
    if (p.grad_z) {
      read_ahead(p.grad_z.row(sample) + e);
      const Vec grad_z = load(p.grad_z.row(sample) + e, count);
      grad_mean += grad_z;
      grad_log_var += 0.5f * (grad_z * (x.std * eps));
    }
    if (p.grad_mean) put(p.grad_mean.row(sample) + e, grad_mean, count, streams);
    if (p.grad_log_var) put(p.grad_log_var.row(sample) + e, grad_log_var, count, streams);
  });
}

// Adds the blocks' parts of a shared row, in their order.
template <typename T>
static void add_parts(const float* parts, int64_t blocks, int64_t elements, T* out) {
  for_each_vector(0, elements, [&](int64_t e, int64_t count) {
    Vec total{};
    for (int64_t i = 0; i < blocks; ++i) total += load(parts + i * elements + e, count);
    store(out + e, total, count);
  });
}

template <typename T, bool prior, bool monte_carlo>
static void backward_all(const Backward<T>& p) {
  const Inputs<T>& in = p.in;
  const bool drawn = monte_carlo ? p.grad_kl != nullptr || p.grad_z : bool(p.grad_z);
  const bool shared[2] = {p.grad_prior_mean.is_shared(), p.grad_prior_log_var.is_shared()};

  // The blocks of a sum over samples are as many for any number of threads.
  int64_t rows = samples_of_task(in.elements, kChunk);
  if (shared[0] || shared[1]) rows = std::max(rows, (in.samples + kParts - 1) / kParts);
  const int64_t blocks = (in.samples + rows - 1) / rows;
  Buffer means(shared[0] ? blocks * in.elements : 0),
      log_vars(shared[1] ? blocks * in.elements : 0);

  for_each_block(
      in.samples, rows, in.elements, kChunk, kWork,
      [&](int64_t i, int64_t first, int64_t last, int64_t begin, int64_t end) {
        alignas(64) float sums[2][kChunk];
        for (int k = 0; k < 2; ++k) {
          if (shared[k]) std::fill_n(sums[k], kChunk, 0.0f);
        }

        with_noise(
            in.noise, drawn, first, last, begin, end,
            [&](int64_t s, int64_t from, int64_t to, const float* noise) {
              backward_row<T, prior, monte_carlo>(
                  p, s, from, to, noise, shared[0] ? sums[0] + (from - begin) : nullptr,
                  shared[1] ? sums[1] + (from - begin) : nullptr);
            });

        if (p.streams) streams_are_done();
        const int64_t part = i * in.elements + begin, size = end - begin;
        if (shared[0]) std::copy_n(sums[0], size, means.data() + part);
        if (shared[1]) std::copy_n(sums[1], size, log_vars.data() + part);
      });

  if (shared[0]) add_parts(means.data(), blocks, in.elements, p.grad_prior_mean.data);
  if (shared[1]) add_parts(log_vars.data(), blocks, in.elements, p.grad_prior_log_var.data);
}

// Calls run(prior, monte_carlo) with the two as types.
template <typename T, typename Run>
DGM_INLINE void switch_form(const Inputs<T>& in, const Run& run) {
  using std::false_type, std::true_type;
  if (in.prior_mean) {
    in.monte_carlo ? run(true_type{}, true_type{}) : run(true_type{}, false_type{});
  } else {
    in.monte_carlo ? run(false_type{}, true_type{}) : run(false_type{}, false_type{});
  }
}

template <typename T>
static void forward(const Forward<T>& p) {
  switch_form(p.in, [&](auto prior, auto monte_carlo) {
    forward_all<T, decltype(prior)::value, decltype(monte_carlo)::value>(p);
  });
}

template <typename T>
static void backward(const Backward<T>& p) {
  switch_form(p.in, [&](auto prior, auto monte_carlo) {
    backward_all<T, decltype(prior)::value, decltype(monte_carlo)::value>(p);
  });
}

}  // namespace dgm::DGM_ISA
