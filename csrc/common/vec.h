// Vectors of floats as wide as the instruction set; compiled once per set, so without a guard: of
// vec.h, math.h and normals.h, each of which includes the one before, a file includes one.

namespace dgm::DGM_ISA {

constexpr int kLanes = DGM_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(DGM_VECTOR_BYTES)));
typedef int VecInt __attribute__((vector_size(DGM_VECTOR_BYTES)));
typedef unsigned VecWord __attribute__((vector_size(DGM_VECTOR_BYTES)));

#define DGM_INLINE static inline __attribute__((always_inline))
#define DGM_INLINE_MEMBER inline __attribute__((always_inline))
// A function of its own: one copy of it serves every caller, which compile in a fraction of the
// time.
#define DGM_APART static __attribute__((noinline, unused))

DGM_INLINE Vec broadcast(float x) { return x - Vec{}; }

DGM_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

DGM_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }

typedef unsigned char VecByte __attribute__((vector_size(kLanes)));
typedef unsigned short VecShort __attribute__((vector_size(2 * kLanes)));

DGM_INLINE Vec load(const BFloat16* p) {
  VecShort bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  return (Vec)(__builtin_convertvector(bits, VecWord) << 16);
}

DGM_INLINE void store(BFloat16* p, Vec v) {
  const VecWord word = (VecWord)v;
  // Adding half an ulp, less one where the last kept bit is even, rounds half to even.
  const VecWord rounded = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
  const VecShort bits = __builtin_convertvector(v == v ? rounded : VecWord{} + 0x7FC0u, VecShort);
  __builtin_memcpy(p, &bits, sizeof(bits));
}

#if DGM_VECTOR_BYTES == 64
DGM_INLINE Vec load(const Half* p) {
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

DGM_INLINE void store(Half* p, Vec v) {
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif DGM_VECTOR_BYTES == 32
DGM_INLINE Vec load(const Half* p) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

DGM_INLINE void store(Half* p, Vec v) {
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
// Without an instruction for it, a conversion is long.
DGM_APART Vec load(const Half* p) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}

DGM_APART void store(Half* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<Half>(v[i]);
}
#endif

// Asks for the line some way ahead of p, which may be past the end. The processor's own prefetchers
// stop at the end of a page, and a loop that computes on several streams runs too far behind them:
// reading 2 KiB ahead took a third off an exponential of 12 MiB, product and sum.
DGM_INLINE void read_ahead(const void* p) {
  __builtin_prefetch(static_cast<const char*>(p) + 2048);
}

// Stores past the caches, for results that do not fit them: storing the usual way reads each line
// first. p is aligned to a vector; `streams_are_done` comes before another thread may read.
template <typename T>
DGM_INLINE void stream(T* p, Vec v) {
  alignas(DGM_VECTOR_BYTES) T lanes[kLanes];
  store(lanes, v);
#if defined(__x86_64__)
  if constexpr (sizeof(lanes) == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), _mm512_load_si512(lanes));
  } else if constexpr (sizeof(lanes) == 32) {
    _mm256_stream_si256(
        reinterpret_cast<__m256i*>(p), _mm256_load_si256(reinterpret_cast<__m256i*>(lanes)));
  } else if constexpr (sizeof(lanes) == 16) {
    _mm_stream_si128(
        reinterpret_cast<__m128i*>(p), _mm_load_si128(reinterpret_cast<__m128i*>(lanes)));
  } else {
    store(p, v);
  }
#else
  store(p, v);
#endif
}

DGM_INLINE void streams_are_done() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Eight-bit images, as 0 ... 255.
DGM_INLINE Vec load(const uint8_t* p) {
  VecByte bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return __builtin_convertvector(__builtin_convertvector(bytes, VecInt), Vec);
}

// The first `count` lanes, 1 <= count <= kLanes; the others repeat the last one, so that they take
// no path of their own.
template <typename T>
DGM_APART Vec load_some(const T* p, int64_t count) {
  T lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = p[i < count ? i : count - 1];
  return load(lanes);
}

template <typename T>
DGM_INLINE Vec load(const T* p, int64_t count) {
  return count >= kLanes ? load(p) : load_some(p, count);
}

template <typename T>
DGM_APART void store_some(T* p, Vec v, int64_t count) {
  T lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

template <typename T>
DGM_INLINE void store(T* p, Vec v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  store_some(p, v, count);
}

// Calls f(place, lanes) for the vectors of a block; all but the last are whole and known to be.
template <typename F>
DGM_INLINE void for_each_vector(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, static_cast<int64_t>(kLanes));
  if (i < count) f(i, count - i);
}

DGM_INLINE bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % DGM_VECTOR_BYTES == 0;
}

// Stores past the caches where a whole result is beyond them: `streams` needs p aligned.
template <typename T>
DGM_INLINE void put(T* p, Vec v, int64_t count, bool streams) {
  if (streams && count >= kLanes) {
    stream(p, v);
  } else {
    store(p, v, count);
  }
}

// The first `count` lanes, zero in the others: for sums.
DGM_INLINE Vec first(Vec v, int64_t count) {
  if (count >= kLanes) return v;
  for (int64_t i = 0; i < kLanes; ++i) v[i] = i < count ? v[i] : 0.0f;
  return v;
}

// The sum of all lanes, by halves.
DGM_INLINE float sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int size = kLanes / 2; size > 0; size /= 2) {
    for (int i = 0; i < size; ++i) lanes[i] += lanes[i + size];
  }
  return lanes[0];
}

// NaN where x is: a comparison with NaN is false, and then x stays. The instructions do the same,
// and gcc 12 finds them by itself for narrow vectors only.
DGM_INLINE Vec at_most(Vec x, Vec limit) {
#if DGM_VECTOR_BYTES == 64
  return (Vec)_mm512_min_ps((__m512)limit, (__m512)x);
#else
  return limit < x ? limit : x;
#endif
}
DGM_INLINE Vec at_least(Vec x, Vec limit) {
#if DGM_VECTOR_BYTES == 64
  return (Vec)_mm512_max_ps((__m512)limit, (__m512)x);
#else
  return limit > x ? limit : x;
#endif
}

DGM_INLINE Vec absolute(Vec x) { return (Vec)((VecWord)x & 0x7FFFFFFFu); }
DGM_INLINE Vec with_sign_of(Vec magnitude, Vec sign) {
  return (Vec)((VecWord)magnitude | ((VecWord)sign & 0x80000000u));
}

DGM_INLINE Vec sqrt(Vec x) {
#if DGM_VECTOR_BYTES == 64
  return (Vec)_mm512_sqrt_ps((__m512)x);
#elif DGM_VECTOR_BYTES == 32
  return (Vec)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// The lanes whose byte of `live` is 1, zero in the lanes whose byte is 0.
DGM_INLINE Vec where_live(const bool* live, Vec v) {
  VecByte bytes;
  __builtin_memcpy(&bytes, live, sizeof(bytes));
  return (Vec)((VecInt)v & -__builtin_convertvector(bytes, VecInt));
}

// Lanes that are live; a load gives zero in the others.
#if DGM_VECTOR_BYTES == 64
typedef __mmask16 LaneMask;
DGM_INLINE Vec load_live(const float* p, LaneMask live) {
  return (Vec)_mm512_maskz_loadu_ps(live, p);
}
#else
typedef VecInt LaneMask;
DGM_INLINE Vec load_live(const float* p, LaneMask live) { return (Vec)((VecInt)load(p) & live); }
#endif

DGM_INLINE LaneMask lane_mask(const bool (&live)[kLanes]) {
  LaneMask mask{};
  for (int i = 0; i < kLanes; ++i) {
#if DGM_VECTOR_BYTES == 64
    mask = static_cast<LaneMask>(mask | live[i] << i);
#else
    mask[i] = -live[i];
#endif
  }
  return mask;
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

template <int size, int count>
DGM_INLINE void transpose_steps(Vec (&rows)[count]) {
  if constexpr (size < count) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      if ((i & size) == 0) swap_blocks<size>(rows[i], rows[i + size]);
    }
    transpose_steps<size * 2>(rows);
  }
}

// Transposes the squares of count x count that lie side by side in `count` registers, where count
// is a power of two: one square of kLanes, two of half as many.
template <int count>
DGM_INLINE void transpose(Vec (&rows)[count]) {
  transpose_steps<1>(rows);
}

}  // namespace dgm::DGM_ISA
