"""Where plain PyTorch is faster than the kernels, or should be: the README has the table."""

from __future__ import annotations

import torch
from torch import Tensor

# oneDNN convolves bfloat16 with these units, twice as fast and more as float32 is convolved.
_MULTIPLIES_BFLOAT16 = any(
    getattr(torch.cpu, name, lambda: False)()
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
)


def multiplies_in_tf32() -> bool:
    """Whether convolutions of float32 may round to TF32 on an NVIDIA GPU, as `F.conv2d`'s do."""
    return torch.version.hip is None and torch.backends.cudnn.conv.fp32_precision == "tf32"


# Dynamo cannot trace torch's setting: it reads it once, when it compiles. This is what
# `torch.compiler.assume_constant_result` sets, without the second that its import takes.
multiplies_in_tf32._dynamo_marked_constant = True


def reference_is_faster(x: Tensor) -> bool:
    """Whether `auto` should take the reference for this call."""
    if not x.is_cuda:
        return x.dtype is torch.bfloat16 and _MULTIPLIES_BFLOAT16

    # Without tensor cores a vendor's library ran masked_linear's products twice as fast as our
    # tiles, which is more than live taps save. These kernels have not been timed on a GPU.
    return x.is_cuda and x.dtype is torch.float32 and not multiplies_in_tf32()
