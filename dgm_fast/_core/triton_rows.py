"""Rows of elements, one a sample, by the tile: where a tile lies, its numbers and its noise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel
from dgm_fast._core.triton_random import interleave, philox_words, words_to_normals

# Elements of one program's tile: 16 a thread, four 16-byte loads of float32.
TILE = 2048


@triton.jit
def tile_of(program, samples, elements, BLOCK_S: tl.constexpr, BLOCK_E: tl.constexpr):
    """Return a program's samples [BLOCK_S, 1], elements [1, BLOCK_E], their first, and a mask."""
    blocks = tl.cdiv(elements, BLOCK_E)
    program = program.to(tl.int64)
    row = (program // blocks) * BLOCK_S + tl.arange(0, BLOCK_S)[:, None]
    first = (program % blocks) * BLOCK_E
    element = first + tl.arange(0, BLOCK_E)[None, :]
    return row, element, first, (row < samples) & (element < elements)


@triton.jit
def load_values(ptr, stride, row, element, live):
    """Load numbers as float32; 8-bit images become -1 ... 1, both met exactly."""
    x = tl.load(ptr + row * stride + element, mask=live, other=0)
    if ptr.dtype.element_ty == tl.uint8:
        # The difference is exact.
        return (x.to(tl.float32) - 127.5) * 0.00784313725490196  # 1 / 127.5
    else:
        return x.to(tl.float32)


@triton.jit
def load_or_draw_noise(
    noise_ptr,  # (S, E), or None
    noise_stride,
    seed_ptr,  # (), int64, or None where noise is given
    sample_offset,
    stream,
    row,
    element,
    first,
    live,
):
    """Return the noise of a tile, given or drawn."""
    if noise_ptr is not None:
        return load_values(noise_ptr, noise_stride, row, element, live)
    else:
        GROUPS: tl.constexpr = element.shape[1] // 4
        group = first // 4 + tl.arange(0, GROUPS)[None, :]
        sample, group = tl.broadcast(sample_offset + row, group)
        w0, w1, w2, w3 = philox_words(tl.load(seed_ptr), sample, group, stream)
        v0, v1 = words_to_normals(w0, w1)
        v2, v3 = words_to_normals(w2, w3)
        return interleave(v0, v1, v2, v3)


def in_rows(x: Tensor) -> Tensor:
    """Return (S, E), copied unless its rows are contiguous."""
    return x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()


def tile_shape(elements: int) -> tuple[int, int]:
    """Return samples and elements of a tile: short samples share one."""
    block_e = min(TILE, max(4, next_power_of_2(elements)))
    return TILE // block_e, block_e


def tiles(samples: int, elements: int) -> int:
    """Return how many tiles cover the elements."""
    block_s, block_e = tile_shape(elements)
    return ceil_div(samples, block_s) * ceil_div(elements, block_e)


def stride_of(x: Tensor | None) -> int:
    """Return the stride of the samples; any will do where there is no tensor."""
    return 0 if x is None else x.stride(0)


def aot_kernel(
    name: str,
    kernel: triton.JITFunction,
    constants: dict[str, Any],
    options: Mapping[str, Any] = MappingProxyType({}),
    **pointers: str,
) -> AotKernel:
    """List a kernel over rows: `pointers` gives the dtype of each tensor there is, less `_ptr`."""
    names = kernel.arg_names
    annotations = kernel.fn.__annotations__
    scalars = {
        each: _SCALARS[annotations[each]] for each in names if annotations.get(each) in _SCALARS
    }
    there = {f"{each}_ptr": f"*{dtype}" for each, dtype in pointers.items()}
    there = {each: dtype for each, dtype in there.items() if each in names}
    absent = {each: None for each in names if each.endswith("_ptr") and each not in there}
    config = triton.Config({}, num_warps=4)
    return AotKernel(
        name, kernel, scalars | there, absent | constants, lambda target: [config], options=options
    )


# Triton's names of what arguments are annotated with.
_SCALARS = {"tl.int64": "i64", "tl.uint32": "u32", "tl.float32": "fp32"}
