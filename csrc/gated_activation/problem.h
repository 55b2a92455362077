// What the gate is given: rows of 2 `elements`, the second half of which gates the first.
#pragma once

#include <cstdint>

#include "common/rows.h"

namespace dgm::gated_activation {

struct Forward {
  int64_t samples, elements;
  Rows<const char> a, b;
  Rows<char> y;
};

struct Backward {
  int64_t samples, elements;
  Rows<const char> grad_y, a, b;
  Rows<char> grad_a, grad_b;
};

}  // namespace dgm::gated_activation
