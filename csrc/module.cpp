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

#define DGM_ISA_SOURCE "masked_linear/plan.h"
#include "common/for_each_isa.h"

namespace dgm {

void count_live_rows(
    const uint8_t* live, int64_t rows, int64_t columns, int32_t* row_counts,
    uint8_t* column_counts) {
  DGM_CALL_LIVE_ISA(count_live_rows, live, rows, columns, row_counts, column_counts);
}

void find_last_live(
    const uint8_t* live, int64_t rows, int64_t columns, const int32_t* ranks, int32_t* last) {
  DGM_CALL_LIVE_ISA(find_last_live, live, rows, columns, ranks, last);
}

}  // namespace dgm

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

  std::vector<uint8_t> partial(tasks * columns, 0);
  dgm::run_tasks(tasks, rows * columns, [&](int64_t task) {
    const int64_t row0 = task * kRowsPerTask, count = std::min(kRowsPerTask, rows - row0);
    uint8_t* counts = partial.data() + task * columns;
    dgm::count_live_rows(live + row0 * columns, count, columns, row_counts + row0, counts);
  });

  std::fill_n(column_counts, columns, 0);
  for (int64_t task = 0; task < tasks; ++task) {
    const uint8_t* counts = partial.data() + task * columns;
    for (int64_t column = 0; column < columns; ++column) column_counts[column] += counts[column];
  }
  return {in_rows, in_columns};
}

// Returns for each row how many of the sorted columns hold all its live ones.
Counts reach_of_rows(const Mask& mask, const Counts& column_order) {
  const int64_t rows = mask.shape(0), columns = mask.shape(1);
  Counts reach(rows);
  const auto* live = reinterpret_cast<const uint8_t*>(mask.data());
  int32_t* reaches = reach.mutable_data();
  std::vector<int32_t> ranks(columns);
  for (int32_t i = 0; i < columns; ++i) ranks[column_order.data()[i]] = i + 1;

  dgm::run_tasks(row_tasks(rows), rows * columns, [&](int64_t task) {
    const int64_t row0 = task * kRowsPerTask, count = std::min(kRowsPerTask, rows - row0);
    dgm::find_last_live(live + row0 * columns, count, columns, ranks.data(), reaches + row0);
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
  m.def("reach_of_rows", &reach_of_rows, py::arg("mask"), py::arg("column_order"));
}
