// The instruction sets a kernel is compiled for, and the one this machine runs.
#pragma once

namespace dgm {

enum class Isa { generic, avx2, avx512 };

// The widest instruction set of this machine; DGM_FAST_ISA=generic|avx2|avx512 narrows it.
Isa live_isa();

const char* name_of(Isa isa);

}  // namespace dgm
