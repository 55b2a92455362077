// Vectors of floats as wide as the instruction set; compiled once per set, so without a guard.

namespace dgm::DGM_ISA {

constexpr int kLanes = DGM_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(DGM_VECTOR_BYTES)));
typedef int VecInt __attribute__((vector_size(DGM_VECTOR_BYTES)));

#define DGM_INLINE static inline __attribute__((always_inline))
#define DGM_INLINE_MEMBER inline __attribute__((always_inline))

DGM_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

DGM_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }

typedef unsigned char VecByte __attribute__((vector_size(kLanes)));

// The lanes whose byte of `live` is 1, zero in the lanes whose byte is 0.
DGM_INLINE Vec where_live(const bool* live, Vec v) {
  VecByte bytes;
  __builtin_memcpy(&bytes, live, sizeof(bytes));
  return (Vec)((VecInt)v & -__builtin_convertvector(bytes, VecInt));
}

// Swaps the blocks of `size` off the diagonal of each 2 x 2 block square: one step of a transpose.
template <int size>
DGM_INLINE void swap_blocks(Vec& a, Vec& b) {
#if defined(__clang__)
  Vec lo, hi;
  for (int j = 0; j < kLanes; ++j) {
    lo[j] = (j & size) == 0 ? a[j] : b[j - size];
    hi[j] = (j & size) == 0 ? a[j + size] : b[j];
  }
#else
  VecInt low, high;
  for (int j = 0; j < kLanes; ++j) {
    low[j] = (j & size) == 0 ? j : kLanes + j - size;
    high[j] = (j & size) == 0 ? j + size : kLanes + j;
  }
  const Vec lo = __builtin_shuffle(a, b, low), hi = __builtin_shuffle(a, b, high);
#endif
  a = lo;
  b = hi;
}

template <int size>
DGM_INLINE void transpose_steps(Vec (&rows)[kLanes]) {
  if constexpr (size < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & size) == 0) swap_blocks<size>(rows[i], rows[i + size]);
    }
    transpose_steps<size * 2>(rows);
  }
}

// Transposes a square of kLanes x kLanes held in registers.
DGM_INLINE void transpose(Vec (&rows)[kLanes]) { transpose_steps<1>(rows); }

}  // namespace dgm::DGM_ISA
