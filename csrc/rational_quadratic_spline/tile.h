// Numbers of kLanes elements, brought from memory into a tile whose row c holds column c of all of
// them, and back. Compiled once per instruction set, so without a guard; after group.h.

namespace dgm::DGM_ISA {

// Where each lane's element has its columns: `step` apart from `at[0]` on where they are `together`
// in one row, and else where `at` says.
template <typename T>
struct Lanes {
  T* at[kLanes];
  int64_t step, count;
  bool together;

  T* operator[](int64_t i) const { return together ? at[0] + i * step : at[i]; }
};

// kSquare numbers from `a`, and on AVX-512 as many from `b`.
template <typename T>
DGM_INLINE Vec load_squares(const T* a, [[maybe_unused]] const T* b) {
#if DGM_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == sizeof(float)) {
    return (Vec)_mm512_insertf32x8(
        _mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
  } else {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    T lanes[kLanes];
    __builtin_memcpy(lanes, &both, sizeof(both));
    return load(lanes);
  }
#else
  return load(a);
#endif
}

template <typename T>
DGM_INLINE void store_squares(T* a, [[maybe_unused]] T* b, Vec v) {
#if DGM_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == sizeof(float)) {
    _mm256_storeu_ps(a, _mm512_castps512_ps256((__m512)v));
    _mm256_storeu_ps(b, _mm512_extractf32x8_ps((__m512)v, 1));
  } else {
    T lanes[kLanes];
    store(lanes, v);
    __m256i both;
    __builtin_memcpy(&both, lanes, sizeof(both));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(a), _mm256_castsi256_si128(both));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(b), _mm256_extracti128_si256(both, 1));
  }
#else
  store(a, v);
#endif
}

// The first column of square i: the last square ends with the last column, where it can.
DGM_INLINE int64_t square_start(int64_t i, int64_t columns) {
  const int64_t start = i * kSquare;
  return columns >= kSquare && start + kSquare > columns ? columns - kSquare : start;
}

// The second of the rows that share a register with row i.
DGM_INLINE int beside(int i) { return kLanes == kSquare ? i : i + kSquare; }

// Loads columns that lie side by side. What is read beyond an element's last column, where there
// are few, belongs to other elements and is not used.
template <typename T>
DGM_INLINE void load_rows(
    const spline::Columns<const T>& from, const Lanes<const T>& lanes, float* tile) {
  T copies[kLanes][kSquare];

  for (int64_t i = 0; i * kSquare < from.count; ++i) {
    const int64_t c = square_start(i, from.count);
    const T *first = lanes.at[0] + c, *last = lanes[lanes.count - 1] + c;
    int64_t step = lanes.step;
    if (!lanes.together || lanes.count < kLanes || last + kSquare > from.end) {
      const int64_t count = std::min<int64_t>(kSquare, from.count - c);
      for (int64_t j = 0; j < kLanes; ++j) {
        const T* row = lanes[std::min(j, lanes.count - 1)] + c;
        for (int64_t k = 0; k < kSquare; ++k) copies[j][k] = row[std::min(k, count - 1)];
      }
      first = copies[0];
      step = kSquare;
    }

    Vec square[kSquare];
#pragma GCC unroll 8
    for (int j = 0; j < kSquare; ++j) {
      square[j] = load_squares(first + j * step, first + beside(j) * step);
    }
    transpose(square);
#pragma GCC unroll 8
    for (int j = 0; j < kSquare; ++j) store(tile + (c + j) * kLanes, square[j]);
  }
}

template <typename T>
DGM_INLINE void load_tile(
    const spline::Columns<const T>& from, const Lanes<const T>& lanes, float* tile) {
  if (from.column == 1) return load_rows(from, lanes, tile);

  for (int64_t c = 0; c < from.count; ++c) {
    if (lanes.together && from.inner == 1) {
      store(tile + c * kLanes, load(lanes.at[0] + c * from.column, lanes.count));
    } else {
      for (int j = 0; j < kLanes; ++j) {
        tile[c * kLanes + j] =
            static_cast<float>(lanes[std::min<int64_t>(j, lanes.count - 1)][c * from.column]);
      }
    }
  }
}

// Stores rows that lie one after another. What the square of a row with few columns writes beyond
// it is written again by the next row; the last rows are written number by number.
template <typename T>
DGM_INLINE void store_rows(const spline::Columns<T>& to, const Lanes<T>& lanes, const float* tile) {
  T* const begin = lanes.at[0];
  T* const end = begin + lanes.count * to.count;
  const bool whole = lanes.count == kLanes && to.count >= kSquare;
  T copies[kLanes][kSquare];

  for (int64_t i = 0; i * kSquare < to.count; ++i) {
    const int64_t c = square_start(i, to.count);
    T* const first = whole ? begin + c : copies[0];
    const int64_t step = whole ? to.count : kSquare;

    Vec square[kSquare];
#pragma GCC unroll 8
    for (int j = 0; j < kSquare; ++j) square[j] = load(tile + (c + j) * kLanes);
    transpose(square);
#pragma GCC unroll 8
    for (int j = 0; j < kSquare; ++j) {
      store_squares(first + j * step, first + beside(j) * step, square[j]);
    }
    if (whole) continue;

    for (int64_t j = 0; j < lanes.count; ++j) {
      T* const at = begin + j * to.count + c;
      if (at + kSquare <= end) {
        __builtin_memcpy(at, copies[j], sizeof(copies[j]));
      } else {
        for (int64_t k = 0; k < to.count - c; ++k) at[k] = copies[j][k];
      }
    }
  }
}

template <typename T>
DGM_INLINE void store_tile(const spline::Columns<T>& to, const Lanes<T>& lanes, const float* tile) {
  if (to.column == 1) return store_rows(to, lanes, tile);

  for (int64_t c = 0; c < to.count; ++c) {
    if (lanes.together && to.inner == 1) {
      store(lanes.at[0] + c * to.column, load(tile + c * kLanes), lanes.count);
    } else {
      for (int64_t j = 0; j < lanes.count; ++j) {
        lanes[j][c * to.column] = static_cast<T>(tile[c * kLanes + j]);
      }
    }
  }
}

}  // namespace dgm::DGM_ISA
