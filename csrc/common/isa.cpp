#include "common/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace dgm {
namespace {

Isa widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return Isa::avx2;
  }
#endif
  return Isa::generic;
}

Isa narrowed() {
  const Isa isa = widest();
  const char* wanted = std::getenv("DGM_FAST_ISA");
  if (wanted == nullptr) return isa;

  for (Isa each : {Isa::generic, Isa::avx2, Isa::avx512}) {
    if (std::strcmp(wanted, name_of(each)) == 0) return std::min(each, isa);
  }
  throw std::invalid_argument(
      std::string("DGM_FAST_ISA must be generic, avx2 or avx512; got ") + wanted);
}

}  // namespace

Isa live_isa() {
  static const Isa isa = narrowed();
  return isa;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "generic";
  }
}

}  // namespace dgm
