"""Triton kernels of the statistics of channels, and their launcher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_channels import (
    WARPS,
    Tiling,
    channels_of,
    place_of,
    steps_of,
    sum_of_channels,
    tile_at,
)
from dgm_fast._core.triton_compile import AotKernel, programs

# Programs, two on each of a large GPU's processors: their pieces are merged in one tile.
_PROGRAMS, _MERGED = programs(256), 2048


@triton.jit
def pieces_kernel(
    x_ptr,  # (O, C or 1, I): outers, lines, inners side by side
    count_ptr,  # (pieces, C)
    mean_ptr,  # (pieces, C)
    deviations_ptr,  # (pieces, C)
    origin_ptr,  # (C,), what means are relative to
    outers,
    inners,
    channels,
    pieces,
    x_stride_o,
    x_stride_c,
    CHANNELS_INNER: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    group, piece, begin, end = steps_of(
        outers, inners, channels, pieces, CHANNELS_INNER, BLOCK_O, BLOCK_I
    )
    channel, there = channels_of(group, channels, CHANNELS_INNER, BLOCK_I)
    # A mean far from zero costs no digits: all pieces count from the same element.
    first = channel if CHANNELS_INNER else channel.to(tl.int64) * x_stride_c
    origin = tl.load(x_ptr + first, mask=there, other=0.0).to(tl.float32)
    tl.store(origin_ptr + channel, origin, mask=there & (piece == 0))

    count = tl.zeros(channel.shape, tl.float32)  # [1, BLOCK_I] or [1, 1], as are the others
    mean = tl.zeros(channel.shape, tl.float32)
    deviations = tl.zeros(channel.shape, tl.float32)

    for step in range(begin, end):
        outer, inner, live = tile_at(
            group, step, outers, inners, CHANNELS_INNER, BLOCK_O, BLOCK_I
        )  # [BLOCK_O, BLOCK_I]
        place = place_of(group, outer, inner, x_stride_o, x_stride_c, CHANNELS_INNER)
        x = tl.load(x_ptr + place, mask=live, other=0.0).to(tl.float32)
        x = tl.where(live, x - origin, 0.0)

        # The mean of the tile but for its rounding, and what is left of it.
        here = sum_of_channels(live.to(tl.float32), CHANNELS_INNER)
        divisor = tl.maximum(here, 1.0)
        near = sum_of_channels(x, CHANNELS_INNER) / divisor
        d = tl.where(live, x - near, 0.0)
        left = sum_of_channels(d, CHANNELS_INNER)
        squares = sum_of_channels(d * d, CHANNELS_INNER) - left * (left / divisor)

        total = tl.maximum(count + here, 1.0)
        difference = near + left / divisor - mean
        mean += difference * (here / total)
        deviations += squares + difference * difference * (count * here / total)
        count += here

    place = piece * channels + channel
    tl.store(count_ptr + place, count, mask=there)
    tl.store(mean_ptr + place, mean, mask=there)
    tl.store(deviations_ptr + place, tl.where(deviations < 0.0, 0.0, deviations), mask=there)


@triton.jit
def merge_kernel(
    count_ptr,  # (pieces, C)
    mean_ptr,  # (pieces, C)
    deviations_ptr,  # (pieces, C)
    origin_ptr,  # (C,)
    out_mean_ptr,  # (C,)
    out_deviations_ptr,  # (C,)
    channels,
    pieces,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    piece = tl.arange(0, BLOCK_P)[:, None]
    there, place = channel < channels, piece * channels + channel
    live = (piece < pieces) & there  # [BLOCK_P, BLOCK_C]
    count = tl.load(count_ptr + place, mask=live, other=0.0)
    mean = tl.load(mean_ptr + place, mask=live, other=0.0)
    deviations = tl.load(deviations_ptr + place, mask=live, other=0.0)

    total = tl.maximum(tl.sum(count, axis=0)[None, :], 1.0)
    whole = tl.sum(count * mean, axis=0)[None, :] / total
    apart = mean - whole
    deviations += count * apart * apart

    origin = tl.load(origin_ptr + channel, mask=there, other=0.0)
    tl.store(out_mean_ptr + channel, origin + whole, mask=there)
    tl.store(out_deviations_ptr + channel, tl.sum(deviations, axis=0)[None, :], mask=there)


def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), squared deviations (C,) and count () of x (B, C, P)."""
    channels = x.shape[1]
    count = x.new_full((), x.numel() // max(1, channels), dtype=torch.float32)
    if x.numel() == 0:
        return *(x.new_zeros(channels, dtype=torch.float32) for _ in range(2)), count

    tiling = Tiling.of(x, _PROGRAMS)
    view, pieces = tiling.view(x), tiling.sizes["pieces"]
    parts = x.new_empty(3, pieces, channels, dtype=torch.float32).unbind()
    origin, mean, deviations = (x.new_empty(channels, dtype=torch.float32) for _ in range(3))
    block_p = next_power_of_2(pieces)
    block_c = min(next_power_of_2(channels), max(1, _MERGED // block_p))
    with torch.cuda.device_of(x):
        pieces_kernel[(tiling.programs,)](
            view, *parts, origin, **tiling.sizes, **_strides(view), **tiling.constants
        )
        merge_kernel[(ceil_div(channels, block_c),)](
            *parts, origin, mean, deviations, channels, pieces, block_p, block_c, num_warps=4
        )
    return mean, deviations, count


def _strides(view: Tensor) -> dict[str, int]:
    return {"x_stride_o": view.stride(0), "x_stride_c": view.stride(1)}


def _aot_kernels() -> Iterator[AotKernel]:
    lines = {"CHANNELS_INNER": False, "BLOCK_O": 2, "BLOCK_I": 1024}
    pixels = {"CHANNELS_INNER": True, "BLOCK_O": 128, "BLOCK_I": 16}
    for dtype in ("fp32", "bf16", "fp16"):
        for label, layout in (("lines", lines), ("pixels", pixels)):
            yield _aot_kernel(pieces_kernel, f"{label}-{dtype}", dtype, WARPS, layout)

    yield _aot_kernel(merge_kernel, "fp32", "fp32", 4, {"BLOCK_P": _PROGRAMS, "BLOCK_C": 8})


def _aot_kernel(
    kernel: triton.JITFunction, label: str, dtype: str, warps: int, constants: dict[str, Any]
) -> AotKernel:
    signature = {
        name: f"*{dtype}" if name == "x_ptr" else "*fp32" if name.endswith("_ptr") else "i32"
        for name in kernel.arg_names
        if name not in constants
    }
    config = triton.Config({}, num_warps=warps)
    name = f"{kernel.__name__}-{label}"
    return AotKernel(name, kernel, signature, constants, lambda target: [config])


AOT_KERNELS = tuple(_aot_kernels())
