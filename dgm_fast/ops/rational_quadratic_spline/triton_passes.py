"""The forward and the backward pass of the spline as Triton kernels.

A program has a tile of BLOCK_B samples by BLOCK_I elements, each a lane of BLOCK_E lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dgm_fast.ops.rational_quadratic_spline.triton_bins import (
    axis_of,
    constrained,
    find_ends,
    gradients_of_shares,
    gradients_of_slopes,
)
from dgm_fast.ops.rational_quadratic_spline.triton_segment import gradients_by_bin, map_in_bin


class Elements(NamedTuple):
    """Numbers (B, O, I), or none."""

    ptr: Any
    stride_b: Any
    stride_o: Any
    stride_i: Any


class Columns(NamedTuple):
    """Numbers of each element (B, O, I), or none; stride_b is 0 where samples share them."""

    ptr: Any
    stride_b: Any
    stride_o: Any
    stride_i: Any
    stride_k: Any


class Parameters(NamedTuple):
    """What splines are made of, unconstrained, or the gradients by it."""

    widths: Any
    heights: Any
    derivatives: Any


class Sizes(NamedTuple):
    """B, O and I."""

    samples: Any
    outer: Any
    inner: Any


class Lanes(NamedTuple):
    """Where each lane's element is, and whether it is one."""

    sample: Any  # [BLOCK_E]
    outer: Any
    inner: Any  # [BLOCK_E]
    live: Any  # [BLOCK_E]


@triton.jit
def _lanes(block, rest, sizes, BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return the lanes of tile (block of samples, rest = outer and piece)."""
    pieces = tl.cdiv(sizes.inner, BLOCK_I)
    lane = tl.arange(0, BLOCK_B * BLOCK_I)
    sample = (lane // BLOCK_I).to(tl.int64) + block * BLOCK_B
    inner = (rest % pieces).to(tl.int64) * BLOCK_I + lane % BLOCK_I
    live = (sample < sizes.samples) & (inner < sizes.inner)
    return Lanes(sample, (rest // pieces).to(tl.int64), inner, live)


@triton.jit
def _place(tensor, lanes):
    row = lanes.sample * tensor.stride_b + lanes.outer * tensor.stride_o
    return row + lanes.inner * tensor.stride_i


@triton.jit
def _load(tensor, lanes):
    """Load a number for each lane in float32, or zeros where there is no tensor."""
    if tensor.ptr is None:
        values = tl.zeros(lanes.live.shape, tl.float32)
    else:
        place = _place(tensor, lanes)
        values = tl.load(tensor.ptr + place, mask=lanes.live, other=0.0).to(tl.float32)

    return values


@triton.jit
def _store(tensor, lanes, values, wanted=True):
    """Store a number for each lane, where wanted."""
    values = values.to(tensor.ptr.dtype.element_ty)
    tl.store(tensor.ptr + _place(tensor, lanes), values, mask=lanes.live & wanted)


@triton.jit
def _load_column(columns, lanes, column, count: tl.constexpr):
    """Load the column that each lane names, or zeros where it is none of `count`."""
    live = lanes.live & (column >= 0) & (column < count)
    place = _place(columns, lanes) + column.to(tl.int64) * columns.stride_k
    return tl.load(columns.ptr + place, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _columns_at(columns, lanes, count: tl.constexpr, BLOCK: tl.constexpr):
    """Return the places of all columns and which there are, [BLOCK_E, BLOCK]."""
    k = tl.arange(0, BLOCK)[None, :]
    place = _place(columns, lanes)[:, None] + k.to(tl.int64) * columns.stride_k
    return place, lanes.live[:, None] & (k < count)


@triton.jit
def _load_axis(columns, lanes, scales, K: tl.constexpr, ZUKO: tl.constexpr, BLOCK_K: tl.constexpr):
    place, live = _columns_at(columns, lanes, K, BLOCK_K)
    u = tl.load(columns.ptr + place, mask=live, other=0.0).to(tl.float32)
    return axis_of(u, scales, K, ZUKO)


@triton.jit
def _find(
    given,
    widths,
    heights,
    derivatives,
    lanes,
    scales,
    K: tl.constexpr,
    ZUKO: tl.constexpr,
    BOUNDED: tl.constexpr,
    INVERSE: tl.constexpr,
):
    """Return each lane's bin."""
    if INVERSE:
        number, y0, y1, x0, x1 = find_ends(heights, widths, given, scales, K)
    else:
        number, x0, x1, y0, y1 = find_ends(widths, heights, given, scales, K)

    COUNT: tl.constexpr = K + 1 if BOUNDED else K - 1
    first = number if BOUNDED else number - 1
    u0 = tl.zeros(given.shape, tl.float32)
    u1 = u0
    if COUNT > 0:
        u0 = _load_column(derivatives, lanes, first, COUNT)
        u1 = _load_column(derivatives, lanes, first + 1, COUNT)

    return constrained(number, x0, x1, y0, y1, u0, u1, scales, K, ZUKO, BOUNDED)


@triton.jit
def forward_kernel(
    x,
    parameters,
    y,
    sums_ptr,  # (B, O, pieces)
    sizes,
    scales,
    K: tl.constexpr,
    ZUKO: tl.constexpr,
    BOUNDED: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    programs = sizes.outer * tl.cdiv(sizes.inner, BLOCK_I)  # of a block of samples
    block, rest = tl.program_id(0) // programs, tl.program_id(0) % programs
    lanes = _lanes(block, rest, sizes, BLOCK_B, BLOCK_I)
    given = _load(x, lanes)
    widths = _load_axis(parameters.widths, lanes, scales, K, ZUKO, BLOCK_K)
    heights = _load_axis(parameters.heights, lanes, scales, K, ZUKO, BLOCK_K)

    derivatives = parameters.derivatives
    found = _find(given, widths, heights, derivatives, lanes, scales, K, ZUKO, BOUNDED, INVERSE)
    result, log_slope = map_in_bin(found.bin, given, scales.bound, BOUNDED, INVERSE)
    _store(y, lanes, result)

    log_slope = tl.reshape(tl.where(lanes.live, log_slope, 0.0), (BLOCK_B, BLOCK_I))
    sample = block.to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    sums = tl.sum(log_slope, axis=1)
    tl.store(sums_ptr + sample * programs + rest, sums, mask=sample < sizes.samples)


@triton.jit
def _gradients(
    x,
    grad_y,
    grad_log_det,
    widths,
    heights,
    derivatives,
    lanes,
    scales,
    K: tl.constexpr,
    ZUKO: tl.constexpr,
    BOUNDED: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return the gradient of x, [BLOCK_E], and those of the three kinds of parameters."""
    given = _load(x, lanes)
    found = _find(given, widths, heights, derivatives, lanes, scales, K, ZUKO, BOUNDED, INVERSE)
    g, g_log = _load(grad_y, lanes), _load(grad_log_det, lanes)
    grad_x, by = gradients_by_bin(found.bin, given, g, g_log, scales.bound, BOUNDED, INVERSE)

    at, number = found.bin, found.number
    grad_w = gradients_of_shares(widths, number, at.x0, at.x1, by.x0, by.x1, scales, K)
    grad_h = gradients_of_shares(heights, number, at.y0, at.y1, by.y0, by.y1, scales, K)
    return grad_x, grad_w, grad_h, gradients_of_slopes(found, by.d0, by.d1, BOUNDED, BLOCK_N)


@triton.jit
def _store_columns(columns, lanes, values, wanted, count: tl.constexpr):
    """Store columns, where wanted."""
    if count > 0:
        place, live = _columns_at(columns, lanes, count, values.shape[1])
        values = values.to(columns.ptr.dtype.element_ty)
        tl.store(columns.ptr + place, values, mask=live & wanted)


@triton.jit
def _store_sums(
    columns,
    chunk,
    rest,
    sizes,
    values,
    wanted,
    count: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Store the sums over a chunk's samples, where wanted."""
    values = tl.sum(tl.reshape(values, (BLOCK_B, BLOCK_I, values.shape[1])), axis=0)
    pieces = tl.cdiv(sizes.inner, BLOCK_I)
    inner = (rest % pieces).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    sample = tl.zeros((BLOCK_I,), tl.int64) + chunk
    lanes = Lanes(sample, (rest // pieces).to(tl.int64), inner, inner < sizes.inner)
    _store_columns(columns, lanes, values, wanted, count)


# Which gradients are wanted is asked at run time: compiled for each choice, the kernel would lay
# out its tiles, and add their bins, differently, and a gradient depend on what is beside it.
@triton.jit(do_not_specialize=["wanted"])
def backward_kernel(
    grad_y,
    grad_log_det,
    x,
    parameters,
    grad_x,
    grads,  # float32 (chunks, O, I, n) where shared
    sizes,
    scales,
    wanted,  # bits: which of the gradients of x, widths, heights and derivatives to store
    blocks,  # of samples, a chunk: 1 unless shared
    K: tl.constexpr,
    ZUKO: tl.constexpr,
    BOUNDED: tl.constexpr,
    INVERSE: tl.constexpr,
    SHARED: tl.constexpr,  # the parameters are all samples', and their gradients sums
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    programs = sizes.outer * tl.cdiv(sizes.inner, BLOCK_I)  # of a chunk of samples
    chunk, rest = tl.program_id(0) // programs, tl.program_id(0) % programs
    COUNT: tl.constexpr = K + 1 if BOUNDED else K - 1
    wants_w, wants_h, wants_d = (wanted & 2) != 0, (wanted & 4) != 0, (wanted & 8) != 0
    if SHARED:
        first = _lanes(chunk * blocks, rest, sizes, BLOCK_B, BLOCK_I)
        # Every lane of an element needs its parameters, though it may have no sample yet.
        every = Lanes(first.sample, first.outer, first.inner, first.inner < sizes.inner)
        widths = _load_axis(parameters.widths, every, scales, K, ZUKO, BLOCK_K)
        heights = _load_axis(parameters.heights, every, scales, K, ZUKO, BLOCK_K)
        sum_w = tl.zeros((BLOCK_B * BLOCK_I, BLOCK_K), tl.float32)
        sum_h = tl.zeros((BLOCK_B * BLOCK_I, BLOCK_K), tl.float32)
        sum_d = tl.zeros((BLOCK_B * BLOCK_I, BLOCK_N), tl.float32)

    for block in range(chunk * blocks, chunk * blocks + blocks):
        lanes = _lanes(block, rest, sizes, BLOCK_B, BLOCK_I)
        if not SHARED:
            widths = _load_axis(parameters.widths, lanes, scales, K, ZUKO, BLOCK_K)
            heights = _load_axis(parameters.heights, lanes, scales, K, ZUKO, BLOCK_K)

        by_x, grad_w, grad_h, grad_d = _gradients(
            x,
            grad_y,
            grad_log_det,
            widths,
            heights,
            parameters.derivatives,
            lanes,
            scales,
            K,
            ZUKO,
            BOUNDED,
            INVERSE,
            BLOCK_N,
        )
        _store(grad_x, lanes, by_x, (wanted & 1) != 0)
        if SHARED:
            sum_w += tl.where(lanes.live[:, None], grad_w, 0.0)
            sum_h += tl.where(lanes.live[:, None], grad_h, 0.0)
            sum_d += tl.where(lanes.live[:, None], grad_d, 0.0)
        else:
            _store_columns(grads.widths, lanes, grad_w, wants_w, K)
            _store_columns(grads.heights, lanes, grad_h, wants_h, K)
            _store_columns(grads.derivatives, lanes, grad_d, wants_d, COUNT)

    if SHARED:
        _store_sums(grads.widths, chunk, rest, sizes, sum_w, wants_w, K, BLOCK_B, BLOCK_I)
        _store_sums(grads.heights, chunk, rest, sizes, sum_h, wants_h, K, BLOCK_B, BLOCK_I)
        _store_sums(grads.derivatives, chunk, rest, sizes, sum_d, wants_d, COUNT, BLOCK_B, BLOCK_I)
