"""Where plain PyTorch is faster than the kernels, or should be: the README has the table."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.precision import convolutions_in_tf32

# oneDNN convolves bfloat16 with these units, twice as fast and more as float32 is convolved.
_MULTIPLIES_BFLOAT16 = any(
    getattr(torch.cpu, name, lambda: False)()
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
)


def reference_is_faster(x: Tensor) -> bool:
    """Whether `auto` should take the reference for this call."""
    if not x.is_cuda:
        return x.dtype is torch.bfloat16 and _MULTIPLIES_BFLOAT16

    # Without tensor cores a vendor's library ran masked_linear's products twice as fast as our
    # tiles, which is more than live taps save. These kernels have not been timed on a GPU.
    return x.dtype is torch.float32 and not convolutions_in_tf32()
