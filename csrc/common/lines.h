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

// Returns `count` elements of a row; beyond them, up to a whole vector, are numbers.
static inline const float* read_line(
    const Rows<const char>& rows, int64_t sample, int64_t begin, int64_t count,
    float (&line)[kLine]) {
  const char* p = rows.at(sample, begin);
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
  const bool in_place = rows.dtype == ScalarType::Float && count == kLine;
  return in_place ? reinterpret_cast<float*>(rows.at(sample, begin)) : line;
}

template <typename T>
DGM_INLINE void store_line(T* p, int64_t count, const float* line) {
  for (int64_t i = 0; i < count; i += kLanes) store(p + i, load(line + i), count - i);
}

static inline void write_line(
    const Rows<char>& rows, int64_t sample, int64_t begin, int64_t count, const float* line) {
  char* p = rows.at(sample, begin);
  switch (rows.dtype) {
    case ScalarType::BFloat16:
      return store_line(reinterpret_cast<BFloat16*>(p), count, line);
    case ScalarType::Half:
      return store_line(reinterpret_cast<Half*>(p), count, line);
    default:
      if (count < kLine) store_line(reinterpret_cast<float*>(p), count, line);
  }
}

}  // namespace dgm::DGM_ISA
