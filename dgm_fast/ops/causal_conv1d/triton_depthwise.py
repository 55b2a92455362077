"""Depthwise convolutions as Triton kernels: each channel's row, shifted and weighted.

They are bound by memory: a tile's shifted reads meet in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel, signature_of

# Tiles of channels and times; rows of channels or of times lie side by side.
_OF_TIMES = {"BLOCK_C": 4, "BLOCK_T": 512}
_OF_CHANNELS = {"BLOCK_C": 64, "BLOCK_T": 32}
# A weight's gradient sums over so many tiles of times in one program. The pieces follow from the
# sizes alone and are added in their order: bits are the same every time.
_TILES_OF_PIECE = 8


class Signals(NamedTuple):
    """Signals (B, C, T)."""

    ptr: Any
    stride_b: Any
    stride_c: Any
    stride_t: Any
    length: Any


@triton.jit
def _load(signals, sample, channel, time, live):
    """Load as float32, zeros beyond the signal."""
    inside = live[:, None] & ((time >= 0) & (time < signals.length))[None, :]
    return tl.load(_ptrs(signals, sample, channel, time), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _ptrs(signals, sample, channel, time):
    of_channel = channel.to(tl.int64) * signals.stride_c
    of_time = time.to(tl.int64) * signals.stride_t
    return signals.ptr + sample * signals.stride_b + of_channel[:, None] + of_time[None, :]


@triton.jit
def depthwise_kernel(
    x,  # signals
    weight_ptr,  # (C, TAPS)
    bias_ptr,  # (C,), or None
    y,  # signals
    C,
    dilation,
    lead,
    weight_stride_c,
    weight_stride_t,
    TAPS: tl.constexpr,
    AFTER: tl.constexpr,  # sum over what is after a time, not before it
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    tiles_t, tiles_c = tl.cdiv(y.length, BLOCK_T), tl.cdiv(C, BLOCK_C)
    time = tl.program_id(0) % tiles_t * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.program_id(0) // tiles_t % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    sample = (tl.program_id(0) // (tiles_t * tiles_c)).to(tl.int64)
    live = channel < C

    total = tl.zeros((BLOCK_C, BLOCK_T), tl.float32)
    for tap in tl.static_range(TAPS):
        place = channel * weight_stride_c + tap * weight_stride_t
        weight = tl.load(weight_ptr + place, mask=live, other=0.0).to(tl.float32)
        shift = lead - (TAPS - 1 - tap) * dilation
        there = _load(x, sample, channel, time - shift if AFTER else time + shift, live)
        total += weight[:, None] * there  # [BLOCK_C, BLOCK_T]

    if bias_ptr is not None:
        total += tl.load(bias_ptr + channel, mask=live, other=0.0).to(tl.float32)[:, None]
    mask = live[:, None] & (time < y.length)[None, :]
    tl.store(_ptrs(y, sample, channel, time), total.to(y.ptr.dtype.element_ty), mask=mask)


@triton.jit
def depthwise_weight_kernel(
    grad,  # of y, signals
    x,  # signals
    parts_ptr,  # (B pieces, C, TAPS)
    C,
    dilation,
    lead,
    pieces,  # of a signal
    TAPS: tl.constexpr,
    TILES: tl.constexpr,  # of times, in a piece
    BLOCK_K: tl.constexpr,  # TAPS or more
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    tiles_c = tl.cdiv(C, BLOCK_C)
    channel = tl.program_id(0) % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    part = (tl.program_id(0) // tiles_c).to(tl.int64)
    sample, first = part // pieces, (part % pieces).to(tl.int32) * (TILES * BLOCK_T)
    live, taps = channel < C, tl.arange(0, BLOCK_K)

    total = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    for tile in range(TILES):
        time = first + tile * BLOCK_T + tl.arange(0, BLOCK_T)
        above = _load(grad, sample, channel, time, live)  # [BLOCK_C, BLOCK_T]
        for tap in tl.static_range(TAPS):
            shift = lead - (TAPS - 1 - tap) * dilation
            products = above * _load(x, sample, channel, time + shift, live)
            total += tl.where(taps == tap, 1.0, 0.0)[None, :] * tl.sum(products, 1)[:, None]

    place = (part * C + channel)[:, None] * TAPS + taps[None, :]
    tl.store(parts_ptr + place, total, mask=live[:, None] & (taps < TAPS)[None, :])


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    dilation: int,
    lead: int,
    after: bool = False,
) -> None:
    """Write y; or, `after`, a gradient of x from one of y."""
    if y.numel() == 0:
        return

    (batch, C, length), blocks = y.shape, _blocks(y)
    tiles = batch * ceil_div(C, blocks["BLOCK_C"]) * ceil_div(length, blocks["BLOCK_T"])
    sizes = (C, dilation, lead, weight.stride(0), weight.stride(2))
    options = {"TAPS": weight.shape[2], "AFTER": after, **blocks}
    with torch.cuda.device_of(y):
        depthwise_kernel[(tiles,)](_signals(x), weight, bias, _signals(y), *sizes, **options)


def grad_weight(grad: Tensor, x: Tensor, result: Tensor, dilation: int, lead: int) -> None:
    """Write the weight's gradient."""
    (batch, C, length), taps, blocks = grad.shape, result.shape[2], _blocks(x)
    pieces = ceil_div(length, _TILES_OF_PIECE * blocks["BLOCK_T"])
    parts = grad.new_empty(batch * pieces, C, taps, dtype=torch.float32)
    programs = batch * pieces * ceil_div(C, blocks["BLOCK_C"])
    options = {"TAPS": taps, "TILES": _TILES_OF_PIECE, "BLOCK_K": next_power_of_2(taps), **blocks}
    if programs > 0:
        given = (_signals(grad), _signals(x), parts, C, dilation, lead, pieces)
        with torch.cuda.device_of(grad):
            depthwise_weight_kernel[(programs,)](*given, **options)

    result.copy_(parts.sum(0).unsqueeze(1))


def _signals(t: Tensor) -> Signals:
    return Signals(t, *t.stride(), t.shape[2])


def _blocks(t: Tensor) -> dict[str, int]:
    return _OF_CHANNELS if t.stride(1) == 1 and t.stride(2) != 1 else _OF_TIMES


def aot_kernels() -> Iterator[AotKernel]:
    """List the kernels in both layouts."""
    for dtype in ("fp32", "bf16"):
        for blocks in (_OF_TIMES, _OF_CHANNELS):
            last = blocks is _OF_CHANNELS
            strides = ("i32", 1, "i32") if last else ("i32", "i32", 1)
            signals = Signals(f"*{dtype}", *strides, "i32")
            label = f"{'channels-last-' * last}{dtype}"
            constants = {"TAPS": 4, "AFTER": False, **blocks}
            given = {"x": signals, "y": signals}
            yield _aot(f"depthwise-{label}", depthwise_kernel, dtype, given, constants)
            constants = {"TAPS": 4, "TILES": _TILES_OF_PIECE, "BLOCK_K": 4, **blocks}
            given = {"x": signals, "grad": signals, "parts_ptr": "*fp32"}
            yield _aot(f"weight-{label}", depthwise_weight_kernel, dtype, given, constants)


def _aot(
    name: str,
    function: triton.JITFunction,
    dtype: str,
    given: dict[str, Any],
    constants: dict[str, Any],
) -> AotKernel:
    signature = signature_of(function, dtype, given, constants)
    config = triton.Config({}, num_warps=4)
    return AotKernel(name, function, signature, constants, lambda _: [config])
