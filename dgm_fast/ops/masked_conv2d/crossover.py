"""Where plain PyTorch is faster than the kernels, or should be: the README has the table."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast._core.layouts import is_channels_last
from dgm_fast._core.precision import convolved_without_tensor_cores

# oneDNN convolves bfloat16 with these units, twice as fast and more as float32 is convolved.
_MULTIPLIES_BFLOAT16 = any(
    getattr(torch.cpu, name, lambda: False)()
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
)


def reference_is_faster(x: Tensor, weight: Tensor, gated: bool) -> bool:
    """Whether `auto` should take the reference for this call."""
    if not x.is_cuda:
        in_bfloat16 = x.dtype is torch.bfloat16 and _MULTIPLIES_BFLOAT16
        # It is a product of matrices as they lie, which our tile would have to turn around.
        is_matrix = weight.shape[2:] == (1, 1) and not gated and is_channels_last(x)
        return in_bfloat16 or is_matrix

    return convolved_without_tensor_cores(x)


# Of smaller layers and batches launching takes the longest, and Hopper's kernel multiplies 64
# channels and outputs at a time, however many there are.
_PIXELS, _AT_ONCE, _LEAST_USED = 16384, 64, 0.75


def hopper_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `auto` should take Hopper's kernel, where there is one, for this call."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    sizes = (x.shape[1], weight.shape[0])
    full = all(size >= _LEAST_USED * _AT_ONCE * ceil_div(size, _AT_ONCE) for size in sizes)
    return full and pixels >= _PIXELS and is_channels_last(x)
