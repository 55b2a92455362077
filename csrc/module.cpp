// The importable extension: build information and the planning of masks.
//
// Loading it also registers the CPU operators of the other files with torch.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "common/parallel.h"

namespace py = pybind11;

namespace {

using Mask = py::array_t<bool, py::array::c_style | py::array::forcecast>;
using Counts = py::array_t<int32_t, py::array::c_style>;

constexpr int64_t kRowsPerTask = 128;

int64_t row_tasks(int64_t rows) { return (rows + kRowsPerTask - 1) / kRowsPerTask; }

// Returns how many entries are live in each row and in each column.
std::pair<Counts, Counts> count_live(const Mask& mask) {
  const int64_t rows = mask.shape(0), columns = mask.shape(1), tasks = row_tasks(rows);
  Counts in_rows(rows), in_columns(columns);
  const auto* live = reinterpret_cast<const uint8_t*>(mask.data());
  int32_t *row_counts = in_rows.mutable_data(), *column_counts = in_columns.mutable_data();

  // A task's counts fit a byte per column, so that one vector adds 64 columns.
  std::vector<uint8_t> partial(tasks * columns, 0);
  dgm::run_tasks(tasks, rows * columns, [&](int64_t task) {
    uint8_t* counts = partial.data() + task * columns;
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) {
      const uint8_t* line = live + row * columns;
      int32_t count = 0;
      for (int64_t column = 0; column < columns; ++column) count += line[column];
      for (int64_t column = 0; column < columns; ++column) counts[column] += line[column];
      row_counts[row] = count;
    }
  });

  std::fill_n(column_counts, columns, 0);
  for (int64_t task = 0; task < tasks; ++task) {
    const uint8_t* counts = partial.data() + task * columns;
    for (int64_t column = 0; column < columns; ++column) column_counts[column] += counts[column];
  }
  return {in_rows, in_columns};
}

// Returns for each row one more than the largest rank among its live columns, 0 if it has none.
Counts reach_of_rows(const Mask& mask, const Counts& rank) {
  const int64_t rows = mask.shape(0), columns = mask.shape(1);
  Counts reach(rows);
  const auto* live = reinterpret_cast<const uint8_t*>(mask.data());
  const int32_t* ranks = rank.data();
  int32_t* reaches = reach.mutable_data();

  dgm::run_tasks(row_tasks(rows), rows * columns, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) {
      const uint8_t* line = live + row * columns;
      int32_t furthest = 0;
      for (int64_t column = 0; column < columns; ++column) {
        furthest = std::max(furthest, line[column] ? ranks[column] + 1 : 0);
      }
      reaches[row] = furthest;
    }
  });
  return reach;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = DGM_FAST_COMPILER;
  info["torch_target"] = DGM_FAST_TORCH_TARGET;
#if defined(__x86_64__)
  info["isa_compiled"] = "generic, avx2, avx512";
#else
  info["isa_compiled"] = "generic";
#endif
  info["isa_live"] = dgm::name_of(dgm::live_isa());
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled part of dgm_fast.";
  m.def("build_info", &build_info);
  m.def("count_live", &count_live, py::arg("mask"));
  m.def("reach_of_rows", &reach_of_rows, py::arg("mask"), py::arg("rank"));
}
