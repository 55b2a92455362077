// Philox words, uniforms and normals by the vector: what a kernel that makes noise starts from.
//
// Compiled once per instruction set, so without a guard.

#include "common/math.h"
#include "common/philox.h"

namespace dgm::DGM_ISA {

constexpr int kBatch = 4 * kLanes;  // groups drawn at a time
constexpr int kPairs = kLanes / 2;  // words of one register, each in 64 bits
constexpr int kSets = 4;            // registers in flight, to hide the multiplier's latency

typedef uint64_t Words __attribute__((vector_size(DGM_VECTOR_BYTES)));

// Words keep to the low half of 64-bit lanes, so that a product needs no rearranging: the
// multiplier reads low halves and ignores what is above them.
struct MultiplyVectors {
  DGM_INLINE_MEMBER void operator()(uint32_t constant, Words word, Words& high, Words& low) const {
#if DGM_VECTOR_BYTES == 64
    low = (Words)_mm512_mul_epu32((__m512i)word, _mm512_set1_epi64(constant));
    high = (Words)_mm512_shuffle_epi32((__m512i)low, _MM_PERM_CDAB);
#elif DGM_VECTOR_BYTES == 32
    low = (Words)_mm256_mul_epu32((__m256i)word, _mm256_set1_epi64x(constant));
    high = (Words)_mm256_shuffle_epi32((__m256i)low, 0xB1);
#else
    low = (word & 0xFFFFFFFFu) * static_cast<uint64_t>(constant);
    high = low >> 32;
#endif
  }
};

// The counters of kBatch groups. Each has its place in a sample and its sample's place, of `rows`
// samples from `sample` on.
struct Groups {
  uint64_t sample;
  alignas(64) uint32_t group[kBatch], row[kBatch];

  // Groups that follow one another in a sample.
  DGM_INLINE_MEMBER Groups(uint64_t sample_, uint32_t first) : sample(sample_) {
    for (int i = 0; i < kBatch; ++i) {
      group[i] = first + i;
      row[i] = 0;
    }
  }

  // The groups [first, first + count) of one sample after the other, from number `begin` on.
  DGM_INLINE_MEMBER Groups(uint64_t sample_, uint32_t first, int32_t count, int32_t begin)
      : sample(sample_) {
    // Numbers are below 2^12: with half a group added, the rounded quotient has the right whole
    // part.
    const float inverse = 1.0f / static_cast<float>(count);
    for (int32_t i = 0; i < kBatch; ++i) {
      const auto quotient = static_cast<int32_t>((static_cast<float>(begin + i) + 0.5f) * inverse);
      row[i] = static_cast<uint32_t>(quotient);
      group[i] = first + static_cast<uint32_t>(begin + i - quotient * count);
    }
  }
};

typedef uint32_t HalfWords __attribute__((vector_size(DGM_VECTOR_BYTES / 2)));

DGM_INLINE Words widened(const uint32_t* words) {
  HalfWords half;
  __builtin_memcpy(&half, words, sizeof(half));
  return __builtin_convertvector(half, Words);
}

// Draws the words of kBatch groups: words[j][i] is word j of the i-th.
DGM_INLINE void draw_words(
    const PhiloxKey& key, const Groups& groups, uint32_t (&words)[4][kBatch]) {
  for (int i0 = 0; i0 < kBatch; i0 += kSets * kPairs) {
    Words c[4][kSets];
    for (int set = 0; set < kSets; ++set) {
      const int i = i0 + set * kPairs;
      c[0][set] = widened(groups.group + i);
      c[1][set] = groups.sample + widened(groups.row + i);
      c[2][set] = c[1][set] >> 32;
      c[3][set] = Words{} + key.stream;
    }

    uint32_t k0 = key.seed_low, k1 = key.seed_high;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
      for (int set = 0; set < kSets; ++set) {
        philox_round(c[0][set], c[1][set], c[2][set], c[3][set], k0, k1, MultiplyVectors{});
      }
      philox_next_key(k0, k1);
    }

    for (int j = 0; j < 4; ++j) {
      for (int set = 0; set < kSets; ++set) {
        for (int i = 0; i < kPairs; ++i) {
          words[j][i0 + set * kPairs + i] = static_cast<uint32_t>(c[j][set][i]);
        }
      }
    }
  }
}

// Draws kBatch groups: out[j][i] is element j of the i-th.
template <bool normal>
DGM_INLINE void draw_batch(const PhiloxKey& key, const Groups& groups, float (&out)[4][kBatch]) {
  alignas(64) uint32_t words[4][kBatch];
  draw_words(key, groups, words);

  for (int j = 0; j < 4; j += 2) {
    for (int i = 0; i < kBatch; ++i) {
      if constexpr (normal) {
        const float uniform = open_uniform_of_word(words[j][i]);
        const float radius = __builtin_sqrtf(-2.0f * log_of_unit(uniform));
        float cosine, sine;
        cos_sin_of_turns(turns_of_word(words[j + 1][i]), cosine, sine);
        out[j][i] = radius * cosine;
        out[j + 1][i] = radius * sine;
      } else {
        out[j][i] = uniform_of_word(words[j][i]);
        out[j + 1][i] = uniform_of_word(words[j + 1][i]);
      }
    }
  }
}

constexpr int kLine = 4 * kBatch;  // elements drawn at a time

// Writes the elements of kBatch groups side by side.
template <bool normal>
DGM_INLINE void draw_groups(const PhiloxKey& key, const Groups& groups, float* line) {
  alignas(64) float drawn[4][kBatch];
  draw_batch<normal>(key, groups, drawn);
  for (int i = 0; i < kBatch; ++i) {
    for (int j = 0; j < 4; ++j) line[4 * i + j] = drawn[j][i];
  }
}

// Draws elements [element, element + kLine) of a sample; `element` is a multiple of 4.
template <bool normal>
DGM_INLINE void draw_line(
    const PhiloxKey& key, uint64_t sample, int64_t element, float (&line)[kLine]) {
  draw_groups<normal>(key, Groups(sample, static_cast<uint32_t>(element / 4)), line);
}

// Draws `groups` groups from `group` on of each of `rows` samples from `sample` on, side by side:
// no more than 2^12 groups in all. Whole batches are drawn, so `out` has room for kLine elements
// more.
template <bool normal>
static void draw_rows(
    const PhiloxKey& key, uint64_t sample, int64_t rows, uint32_t group, int64_t groups,
    float* out) {
  const auto total = static_cast<int32_t>(rows * groups);
  for (int32_t i = 0; i < total; i += kBatch) {
    if (rows == 1) {
      draw_groups<normal>(key, Groups(sample, group + i), out + 4 * i);
    } else {
      const Groups places(sample, group, static_cast<int32_t>(groups), i);
      draw_groups<normal>(key, places, out + 4 * i);
    }
  }
}

}  // namespace dgm::DGM_ISA
