// The gate of PixelCNN and WaveNet; compiled once per instruction set, so without a guard, after
// one of the headers that math.h describes.

namespace dgm::DGM_ISA {

DGM_INLINE Vec gate(Vec a, Vec b) { return tanh(a) * sigmoid(b); }

// With y = t s, t = tanh(a) and s = sigmoid(b): da = dy s (1 - t^2), db = dy t s (1 - s).
// 1 - t^2 = 4 e / (1 + e)^2 with e = exp(-2 |a|) keeps its digits where tanh is near 1.
DGM_INLINE void gate_gradients(Vec grad, Vec a, Vec b, Vec& grad_a, Vec& grad_b) {
  const Vec e = exp(-2.0f * absolute(a)), over = 1.0f / (1.0f + e);
  const Vec s = sigmoid(b);
  grad_a = grad * s * (4.0f * e * over * over);
  grad_b = grad * tanh(a) * s * sigmoid(-b);
}

}  // namespace dgm::DGM_ISA
