"""Triton kernel of the Philox random numbers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel
from dgm_fast._core.triton_random import (
    interleave,
    philox_words,
    word_to_uniform,
    words_to_normals,
)

# Groups of four elements that one program draws: 4096 elements, 8 groups a thread.
_GROUPS = 1024


@triton.jit(do_not_specialize=["sample_offset", "stream"])
def philox_kernel(
    seed_ptr,  # (), int64
    out_ptr,  # (S, E)
    samples: tl.int64,
    elements: tl.int64,
    sample_offset: tl.int64,
    stream: tl.uint32,
    NORMAL: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    blocks = tl.cdiv(tl.cdiv(elements, 4), BLOCK_G)
    program = tl.program_id(0).to(tl.int64)
    row = (program // blocks) * BLOCK_S + tl.arange(0, BLOCK_S)[:, None]  # [BLOCK_S, 1]
    group = (program % blocks) * BLOCK_G + tl.arange(0, BLOCK_G)[None, :]  # [1, BLOCK_G]

    # The seed stays on the device: no host sync, and a captured graph replays with a fresh one.
    seed = tl.load(seed_ptr)
    tile = tl.zeros((BLOCK_S, BLOCK_G), tl.int64)
    w0, w1, w2, w3 = philox_words(seed, sample_offset + row + tile, group + tile, stream)

    if NORMAL:
        v0, v1 = words_to_normals(w0, w1)
        v2, v3 = words_to_normals(w2, w3)
    else:
        v0, v1 = word_to_uniform(w0), word_to_uniform(w1)
        v2, v3 = word_to_uniform(w2), word_to_uniform(w3)

    values = interleave(v0, v1, v2, v3)  # [BLOCK_S, 4 BLOCK_G]
    first = (program % blocks) * (4 * BLOCK_G)
    element = first + tl.arange(0, 4 * BLOCK_G)[None, :]  # [1, 4 BLOCK_G]
    live = (row < samples) & (element < elements)
    values = values.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * elements + element, values, mask=live)


def forward(
    seed: Tensor,
    samples: int,
    elements: int,
    sample_offset: int,
    stream: int,
    normal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Fill (samples, elements) with uniforms or normals."""
    out = seed.new_empty(samples, elements, dtype=dtype)
    if out.numel() == 0:
        return out

    # Short samples share a program.
    groups = ceil_div(elements, 4)
    block_g = min(_GROUPS, next_power_of_2(groups))
    block_s = _GROUPS // block_g
    grid = (ceil_div(samples, block_s) * ceil_div(groups, block_g),)

    with torch.cuda.device_of(seed):
        philox_kernel[grid](
            seed, out, samples, elements, sample_offset, stream, normal, block_s, block_g
        )

    return out


AOT_KERNELS = tuple(
    AotKernel(
        f"{'normal' if normal else 'uniform'}-{dtype}",
        philox_kernel,
        {
            "seed_ptr": "*i64",
            "out_ptr": f"*{dtype}",
            "samples": "i64",
            "elements": "i64",
            "sample_offset": "i64",
            "stream": "u32",
        },
        {"NORMAL": normal, "BLOCK_S": 1, "BLOCK_G": _GROUPS},
        lambda target: [triton.Config({}, num_warps=4)],
    )
    for normal in (True, False)
    for dtype in ("fp32", "bf16", "fp16")
)
