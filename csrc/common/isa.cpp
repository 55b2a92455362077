#include "common/isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace dgm {
namespace {

Isa widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::generic;
}

Isa narrowed() {
  const Isa isa = widest();
  const char* wanted = std::getenv("DGM_FAST_ISA");
  if (wanted == nullptr) return isa;

  for (Isa each : {Isa::generic, Isa::avx2}) {
    if (std::strcmp(wanted, name_of(each)) == 0 && each < isa) return each;
  }
  return isa;
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
