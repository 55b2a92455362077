// Numbers of channels as samplers hold them.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dgm {

// Channels are filled up with zeros to whole vectors of any instruction set.
constexpr int64_t kPad = 16;

DGM_HOST_DEVICE int64_t padded(int64_t size) { return (size + kPad - 1) / kPad * kPad; }

}  // namespace dgm
