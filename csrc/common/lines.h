// Rows by the line of kLine elements, as floats whatever their dtype; compiled once per instruction
// set, so without a guard.
//
// A whole line of floats is used where it lies; any other goes through a buffer, whose cost in the
// first cache is small beside a line's way from memory. So a kernel is compiled once, not once for
// each combination of its tensors' dtypes.

#include "common/normals.h"

namespace dgm::DGM_ISA {

DGM_INLINE Vec value_of(const float* p, int64_t count) { return load(p, count); }
DGM_INLINE Vec value_of(const BFloat16* p, int64_t count) { return load(p, count); }
DGM_INLINE Vec value_of(const Half* p, int64_t count) { return load(p, count); }

// 0 ... 255 as -1 ... 1: the difference is exact, and both ends are met exactly.
DGM_INLINE Vec value_of(const uint8_t* p, int64_t count) {
  return (load(p, count) - 127.5f) * (1.0f / 127.5f);
}

template <typename T>
DGM_INLINE const float* convert_line(const T* p, int64_t count, float (&line)[kLine]) {
  for (int64_t i = 0; i < count; i += kLanes) store(line + i, value_of(p + i, count - i));
  return line;
}

// Asks for a line of the row some way ahead, which may be past its end: while noise is drawn the
// processor sees no reads, and its prefetchers rest.
DGM_INLINE void ask_ahead(const char* p, int64_t item) {
  constexpr int64_t kAhead = 2 * kLine, kCacheLine = 64;
  for (int64_t byte = 0; byte < kLine * item; byte += kCacheLine) {
    __builtin_prefetch(p + kAhead * item + byte);
  }
}

// Returns `count` elements of a row; beyond them, up to a whole vector, are numbers.
static inline const float* read_line(
    const Rows<const char>& rows, int64_t sample, int64_t begin, int64_t count,
    float (&line)[kLine]) {
  const char* p = rows.at(sample, begin);
  ask_ahead(p, item_bytes(rows.dtype));
  switch (rows.dtype) {
    case ScalarType::Byte:
      return convert_line(reinterpret_cast<const uint8_t*>(p), count, line);
    case ScalarType::BFloat16:
      return convert_line(reinterpret_cast<const BFloat16*>(p), count, line);
    case ScalarType::Half:
      return convert_line(reinterpret_cast<const Half*>(p), count, line);
    default:
      const float* floats = reinterpret_cast<const float*>(p);
      return count == kLine ? floats : convert_line(floats, count, line);
  }
}

// Returns the noise of a line, given or drawn; `begin` is a multiple of 4.
static inline const float* noise_line(
    const Noise& noise, const PhiloxKey& key, int64_t sample, int64_t begin, int64_t count,
    float (&line)[kLine]) {
  if (noise.given) return read_line(noise.given, sample, begin, count, line);
  draw_line<true>(key, static_cast<uint64_t>(noise.sample_offset + sample), begin, line);
  return line;
}

// Returns where to write a line: in place where it can be, else the buffer, for write_line.
DGM_INLINE float* line_to_write(
    const Rows<char>& rows, int64_t sample, int64_t begin, int64_t count, float (&line)[kLine]) {
  const bool in_place = rows.dtype == ScalarType::Float && count == kLine && !rows.streams;
  return in_place ? reinterpret_cast<float*>(rows.at(sample, begin)) : line;
}

template <typename T>
DGM_INLINE void store_line(T* p, int64_t count, const float* line, bool streams) {
  streams = streams && is_aligned(p);
  for (int64_t i = 0; i < count; i += kLanes) put(p + i, load(line + i), count - i, streams);
}

// Before another thread may read what was streamed, `streams_are_done` must be called.
static inline void write_line(
    const Rows<char>& rows, int64_t sample, int64_t begin, int64_t count, const float* line) {
  char* p = rows.at(sample, begin);
  switch (rows.dtype) {
    case ScalarType::BFloat16:
      return store_line(reinterpret_cast<BFloat16*>(p), count, line, rows.streams);
    case ScalarType::Half:
      return store_line(reinterpret_cast<Half*>(p), count, line, rows.streams);
    default:
      if (count < kLine || rows.streams) {
        store_line(reinterpret_cast<float*>(p), count, line, rows.streams);
      }
  }
}

}  // namespace dgm::DGM_ISA
