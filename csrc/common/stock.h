// Large results on memory whose pages are already there.
//
// The C library maps every block over 32 MiB afresh and unmaps it when freed, and gives the top of
// its heap back when a few smaller ones lie free there: a page fault per 4 KiB at each step, which
// is more than the kernel that fills them (64 MiB: 26 ms to touch first, 7 ms again; a sampling
// step of 12 MiB: 5.8 ms and 2.2 ms, on one core of a Xeon). A stock of freed blocks, from 4 MiB
// (two huge pages) on, keeps them warm, up to DGM_FAST_STOCK_MIB (default 1024, 0 for none). A
// tensor of the stock cannot be resized.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

namespace dgm {

// Returns an uninitialised (rows, columns) tensor on the CPU, from the stock where it is large.
torch::stable::Tensor empty_matrix(
    int64_t rows, int64_t columns, torch::headeronly::ScalarType dtype);

// Whether a tensor is of a size that the stock serves, and so beyond the caches nearest a core.
bool is_large(const torch::stable::Tensor& t);

}  // namespace dgm
