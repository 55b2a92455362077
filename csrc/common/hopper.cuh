// Hopper's asynchronous copies, barriers and products of warp groups, one instruction a function.
//
// NVIDIA, "Parallel Thread Execution ISA", sections on mbarrier, cp.async and wgmma.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace dgm::hopper {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void init_barrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Barriers made so far are seen by the asynchronous copies too.
__device__ inline void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;"); }

__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ inline void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity is over.
__device__ inline void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@!over bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Copies 16 bytes, or puts 16 zeros where there is nothing.
__device__ inline void copy_16(uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

// Arrives once this thread's copies have come.
__device__ inline void arrive_when_copied(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Copies a stretch of memory, whose bytes the barrier expects.
__device__ inline void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// What threads, or their copies, wrote is seen by products from here on.
__device__ inline void fence_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Of all threads of a warp group: how many registers each has from here on.
template <int COUNT>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
__device__ inline void leave_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// A matrix in shared memory, rows of 128 bytes, 16-byte pieces swizzled within 8 rows, which start
// on 1024 bytes. 32 bytes, 16 columns, further on is 2 more.
__device__ inline uint64_t matrix_at(uint32_t address) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return ((address & 0x3ffffu) >> 4) | uint64_t{1} << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

// One that is summed over its rows: so many bytes from 64 of its columns to the next. 16 rows
// further on is 128 more.
__device__ inline uint64_t turned_matrix_at(uint32_t address, uint32_t columns_64) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return ((address & 0x3ffffu) >> 4) | static_cast<uint64_t>(columns_64 >> 4) << 16 |
         kEightRows << 32 | kSwizzle128 << 62;
}

// Where a 16-byte piece of a row lies in such a matrix.
__host__ __device__ inline uint32_t swizzled(uint32_t row, uint32_t piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

#define DGM_SUMS_8(s, i)                                                                      \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
      "+f"(s[i + 6]), "+f"(s[i + 7])
#define DGM_SUMS_32(s, i) \
  DGM_SUMS_8(s, i), DGM_SUMS_8(s, i + 8), DGM_SUMS_8(s, i + 16), DGM_SUMS_8(s, i + 24)

#define DGM_REGISTERS_32                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DGM_REGISTERS_64                                                                    \
  DGM_REGISTERS_32                                                                          \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// `turned`: whether both matrices have the summed index from row to row.
#define DGM_WGMMA_64(type, turned, s, a, b, add)                                        \
  asm volatile(                                                                         \
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %34, 0;\n"                                \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" DGM_REGISTERS_32 \
      "}, "                                                                             \
      "%32, %33, adds, 1, 1, " turned ", " turned ";\n}\n"                              \
      : DGM_SUMS_32(s, 0)                                                               \
      : "l"(a), "l"(b), "r"(add))
#define DGM_WGMMA_128(type, turned, s, a, b, add)                                        \
  asm volatile(                                                                          \
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" DGM_REGISTERS_64 \
      "}, "                                                                              \
      "%64, %65, adds, 1, 1, " turned ", " turned ";\n}\n"                               \
      : DGM_SUMS_32(s, 0), DGM_SUMS_32(s, 32)                                            \
      : "l"(a), "l"(b), "r"(add))
#define DGM_WGMMA(type, turned, s, a, b, add)  \
  if constexpr (N == 64) {                     \
    DGM_WGMMA_64(type, turned, s, a, b, add);  \
  } else {                                     \
    DGM_WGMMA_128(type, turned, s, a, b, add); \
  }

// Adds A B^T, or puts it there, of A (64, 16) and B (N, 16). Thread t of the 128 has, at 4 j + 2 h
// + p, row 16 (t / 32) + 8 h + t % 32 / 4 and column 8 j + 2 (t % 4) + p.
template <typename T, int N>
__device__ inline void multiply(float (&sums)[N / 2], uint64_t a, uint64_t b, bool add) {
  static_assert(N == 64 || N == 128);
  const int adds = add;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    DGM_WGMMA("bf16", "0", sums, a, b, adds)
  } else {
    DGM_WGMMA("f16", "0", sums, a, b, adds)
  }
}

// Adds A^T B of A (16, 64) and B (16, N) as `turned_matrix_at` has them; sums likewise.
template <typename T, int N>
__device__ inline void multiply_turned(float (&sums)[N / 2], uint64_t a, uint64_t b) {
  static_assert(N == 64 || N == 128);
  const int adds = 1;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    DGM_WGMMA("bf16", "1", sums, a, b, adds)
  } else {
    DGM_WGMMA("f16", "1", sums, a, b, adds)
  }
}

}  // namespace dgm::hopper
