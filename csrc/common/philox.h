// Philox4x32-10 and the words' meaning as uniforms and normals: one definition for CPU and GPU.
//
// Counter-based: the words of an element depend on (seed, stream, sample, element // 4) alone, so
// any thread of any device can draw any of them, and a backward pass can draw them again.
//
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
//
// CPU kernels include this once per instruction set, so it has no guard; <cstdint> comes before.

#undef DGM_HOST_DEVICE
#if defined(__CUDACC__)
#define DGM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DGM_HOST_DEVICE inline __attribute__((always_inline))
#endif

#if defined(DGM_ISA)
namespace dgm::DGM_ISA {
#else
namespace dgm {
#endif

// What a draw depends on besides the sample and the element.
struct PhiloxKey {
  uint32_t seed_low, seed_high, stream;

  DGM_HOST_DEVICE PhiloxKey(int64_t seed, int64_t stream_)
      : seed_low(static_cast<uint32_t>(seed)),
        seed_high(static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)),
        stream(static_cast<uint32_t>(stream_)) {}
};

// One of the ten rounds on the four counter words. A word is a uint32_t or a vector of words;
// `multiply(constant, word, high, low)` splits the 64-bit products.
template <typename Word, typename Multiply>
DGM_HOST_DEVICE void philox_round(
    Word& c0, Word& c1, Word& c2, Word& c3, uint32_t k0, uint32_t k1, Multiply multiply) {
  Word high0, low0, high1, low1;
  multiply(0xD2511F53u, c0, high0, low0);
  multiply(0xCD9E8D57u, c2, high1, low1);
  c0 = high1 ^ c1 ^ k0;
  c1 = low1;
  c2 = high0 ^ c3 ^ k1;
  c3 = low0;
}

DGM_HOST_DEVICE void philox_next_key(uint32_t& k0, uint32_t& k1) {
  k0 += 0x9E3779B9u;
  k1 += 0xBB67AE85u;
}

struct MultiplyWords {
  DGM_HOST_DEVICE void operator()(
      uint32_t constant, uint32_t word, uint32_t& high, uint32_t& low) const {
    const uint64_t product = static_cast<uint64_t>(constant) * word;
    high = static_cast<uint32_t>(product >> 32);
    low = static_cast<uint32_t>(product);
  }
};

// The words of group `group` (elements 4 group ... 4 group + 3) of a sample.
DGM_HOST_DEVICE void philox_words(
    const PhiloxKey& key, uint64_t sample, uint32_t group, uint32_t& w0, uint32_t& w1, uint32_t& w2,
    uint32_t& w3) {
  w0 = group;
  w1 = static_cast<uint32_t>(sample);
  w2 = static_cast<uint32_t>(sample >> 32);
  w3 = key.stream;

  uint32_t k0 = key.seed_low, k1 = key.seed_high;
  for (int round = 0; round < 10; ++round) {
    philox_round(w0, w1, w2, w3, k0, k1, MultiplyWords{});
    philox_next_key(k0, k1);
  }
}

// A uniform in [0, 1), a multiple of 2^-24.
DGM_HOST_DEVICE float uniform_of_word(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
}

// (word + 1/2) / 2^32, in (0, 1]: never 0, and precise where it is small, which is where the
// normals' tail comes from.
DGM_HOST_DEVICE float open_uniform_of_word(uint32_t word) {
  return static_cast<float>(word) * 0x1p-32f + 0x1p-33f;
}

// An angle in [-1/2, 1/2] turns: the word read as signed.
DGM_HOST_DEVICE float turns_of_word(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word)) * 0x1p-32f;
}

}  // namespace
