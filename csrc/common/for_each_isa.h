// Compiles the file DGM_ISA_SOURCE once per instruction set, each time in a namespace of its own.
//
// One object file then holds every version, and the choice is made at run time: a binary built on
// one machine runs on another. Headers with inline functions are included before this one, never
// inside DGM_ISA_SOURCE, so that no shared inline function is compiled for a wider machine.
//
// DGM_ISA: the namespace.  DGM_VECTOR_BYTES: the width of a vector register.

#include <cstdint>

#include "common/isa.h"
#include "common/scalar.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define DGM_ISA generic
#define DGM_VECTOR_BYTES 16
#include DGM_ISA_SOURCE
#undef DGM_ISA
#undef DGM_VECTOR_BYTES

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define DGM_ISA avx2
#define DGM_VECTOR_BYTES 32
#include DGM_ISA_SOURCE
#undef DGM_ISA
#undef DGM_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define DGM_ISA avx512
#define DGM_VECTOR_BYTES 64
#include DGM_ISA_SOURCE
#undef DGM_ISA
#undef DGM_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define DGM_CALL_LIVE_ISA(function, ...) \
  switch (::dgm::live_isa()) {           \
    case ::dgm::Isa::avx512:             \
      avx512::function(__VA_ARGS__);     \
      break;                             \
    case ::dgm::Isa::avx2:               \
      avx2::function(__VA_ARGS__);       \
      break;                             \
    default:                             \
      generic::function(__VA_ARGS__);    \
  }

#else

#define DGM_CALL_LIVE_ISA(function, ...) generic::function(__VA_ARGS__)

#endif
