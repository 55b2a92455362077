// The matrix from its parameters, and their gradients from its own; compiled once per instruction
// set, so without a guard. All of it is work on C x C numbers, done once a call.

#include "invertible_1x1/strip.h"

namespace dgm::DGM_ISA {

using dgm::invertible_1x1::Gradients;
using dgm::invertible_1x1::Parameters;

// A square matrix whose rows start on whole vectors, zeros beyond the last column.
class Square {
 public:
  explicit Square(int64_t size)
      : pitch_(tiles(size, kLanes) * kLanes), values_(size * pitch_), size_(size) {
    std::fill_n(values_.data(), size * pitch_, 0.0f);
  }

  float* operator[](int64_t row) { return values_.data() + row * pitch_; }
  int64_t pitch() const { return pitch_; }
  int64_t size() const { return size_; }

 private:
  int64_t pitch_;
  Buffer values_;
  int64_t size_;
};

// c = a b.
static void multiply(Square& a, Square& b, Square& c) {
  const int64_t size = a.size();
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < a.pitch(); j += kLanes) {
      Vec sum{};
      for (int64_t k = 0; k < size; ++k) sum += a[i][k] * load(b[k] + j);
      store(c[i] + j, sum);
    }
  }
}

static void transpose(Square& a, Square& b) {
  for (int64_t i = 0; i < a.size(); ++i) {
    for (int64_t j = 0; j < a.size(); ++j) b[j][i] = a[i][j];
  }
}

struct Matrices {
  int64_t channels;
  const int64_t* permutation;       // null: W is given in full
  Square weight, lower, upper;      // the triangles only where there are factors
  std::vector<float> scale, shift;  // 1 and 0 where not given

  Matrices(int64_t channels, const Parameters& p)
      : channels(channels),
        permutation(p.permutation),
        weight(channels),
        lower(permutation != nullptr ? channels : 0),
        upper(permutation != nullptr ? channels : 0),
        scale(channels, 1.0f),
        shift(channels, 0.0f) {
    for (int64_t i = 0; i < channels; ++i) {
      if (p.log_scale != nullptr) scale[i] = std::exp(p.log_scale[i]);
      if (p.shift != nullptr) shift[i] = p.shift[i];
    }

    if (permutation == nullptr) {
      for (int64_t i = 0; i < channels; ++i) {
        std::copy_n(p.matrix + i * channels, channels, weight[i]);
      }
      return;
    }

    for (int64_t i = 0; i < channels; ++i) {
      std::copy_n(p.matrix + i * channels, i, lower[i]);
      std::copy_n(p.upper + i * channels + i + 1, channels - i - 1, upper[i] + i + 1);
      lower[i][i] = 1.0f;
      upper[i][i] = p.sign[i] * std::exp(p.log_diag[i]);
    }
    Square product(channels);
    multiply(lower, upper, product);
    for (int64_t i = 0; i < channels; ++i) {
      std::copy_n(product[permutation[i]], weight.pitch(), weight[i]);
    }
  }

  // W e^log_scale, with which y = folded x + bias.
  Square folded() {
    Square result(channels);
    for (int64_t i = 0; i < channels; ++i) {
      for (int64_t j = 0; j < channels; ++j) result[i][j] = weight[i][j] * scale[j];
    }
    return result;
  }

  std::vector<float> bias() {
    std::vector<float> result(channels, 0.0f);
    for (int64_t i = 0; i < channels; ++i) {
      for (int64_t j = 0; j < channels; ++j) result[i] += weight[i][j] * scale[j] * shift[j];
    }
    return result;
  }
};

// Sums over pixels: of grad x^T, with the rows of grad_y (forward) or of L U (inverse), and along
// the rows of strips of gradients, by themselves and times what they are gradients of.
struct Sums {
  Square products;
  std::vector<float> plain, scaled;

  explicit Sums(int64_t channels) : products(channels), plain(channels), scaled(channels) {}

  void add(Sums& other) {
    for (int64_t i = 0; i < products.size(); ++i) {
      for (int64_t j = 0; j < products.size(); ++j) products[i][j] += other.products[i][j];
      plain[i] += other.plain[i];
      scaled[i] += other.scaled[i];
    }
  }
};

// Passes a gradient of the full weight on to what made it.
static void differentiate_weight(Matrices& m, Square& grad_weight, const Gradients& out) {
  const int64_t channels = m.channels;
  if (m.permutation == nullptr) {
    for (int64_t i = 0; out.matrix != nullptr && i < channels; ++i) {
      std::copy_n(grad_weight[i], channels, out.matrix + i * channels);
    }
    return;
  }

  Square grad_product(channels), turned(channels), found(channels);
  for (int64_t i = 0; i < channels; ++i) {
    std::copy_n(grad_weight[i], grad_weight.pitch(), grad_product[m.permutation[i]]);
  }

  if (out.matrix != nullptr) {
    transpose(m.upper, turned);
    multiply(grad_product, turned, found);
    std::fill_n(out.matrix, channels * channels, 0.0f);
    for (int64_t i = 0; i < channels; ++i) std::copy_n(found[i], i, out.matrix + i * channels);
  }

  transpose(m.lower, turned);
  multiply(turned, grad_product, found);
  for (int64_t i = 0; i < channels; ++i) {
    if (out.log_diag != nullptr) out.log_diag[i] = found[i][i] * m.upper[i][i];
  }
  if (out.upper != nullptr) {
    std::fill_n(out.upper, channels * channels, 0.0f);
    for (int64_t i = 0; i < channels; ++i) {
      const int64_t place = i * channels + i + 1;
      std::copy_n(found[i] + i + 1, channels - i - 1, out.upper + place);
    }
  }
}

// y = A (x + shift) with A = W e^log_scale, from products = sum g x^T and plain = sum g.
static void differentiate_product(Matrices& m, Sums& sums, const Gradients& out) {
  const int64_t channels = m.channels;
  Square folded = m.folded();
  if (out.shift != nullptr) std::fill_n(out.shift, channels, 0.0f);
  if (out.log_scale != nullptr) std::fill_n(out.log_scale, channels, 0.0f);

  for (int64_t i = 0; i < channels; ++i) {
    float* row = sums.products[i];
    for (int64_t j = 0; j < channels; ++j) {
      row[j] += sums.plain[i] * m.shift[j];
      if (out.shift != nullptr) out.shift[j] += folded[i][j] * sums.plain[i];
      if (out.log_scale != nullptr) out.log_scale[j] += folded[i][j] * row[j];
      row[j] *= m.scale[j];
    }
  }
  differentiate_weight(m, sums.products, out);
}

// x = e^-log_scale u - shift with W u = y, from products = sum P^T (dL/dy) u^T, plain = sum of
// the gradient of x, and scaled = sum of that of u times u.
static void differentiate_solve(Matrices& m, Sums& sums, const Gradients& out) {
  const int64_t channels = m.channels;
  for (int64_t j = 0; j < channels; ++j) {
    if (out.shift != nullptr) out.shift[j] = -sums.plain[j];
    if (out.log_scale != nullptr) out.log_scale[j] = -sums.scaled[j];
  }

  Square grad_weight(channels);
  for (int64_t i = 0; i < channels; ++i) {
    const float* row = sums.products[m.permutation[i]];
    for (int64_t j = 0; j < channels; ++j) grad_weight[i][j] = -row[j];
  }
  differentiate_weight(m, grad_weight, out);
}

}  // namespace dgm::DGM_ISA
