// How a function is marked that a CPU and a GPU both run.
#pragma once

#undef DGM_HOST_DEVICE
#if defined(__CUDACC__)
#define DGM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DGM_HOST_DEVICE inline
#endif
