"""Sums over all pixels, a bias's gradient: of pieces first, then of these, as Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_taps.images import (
    AHEAD,
    aligned,
    load,
    piece_of_pixels,
    pixels_of_piece,
)


@triton.jit
def sum_pixels_kernel(
    given,  # images of C channels
    sums_ptr,  # (pieces, C), float32
    grid,
    C,
    length,  # pixels of a piece
    ALIGN_C: tl.constexpr,
    ALIGN_P: tl.constexpr,
    JOINED: tl.constexpr,
    LAYOUT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    C = aligned(C, ALIGN_C)
    tiles_c = tl.cdiv(C, BLOCK_C)
    piece = tl.program_id(0) // tiles_c
    channel = tl.program_id(0) % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    live = channel < C

    lead, place, count = piece_of_pixels(piece, length, grid, ALIGN_P)
    sums = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in tl.range(0, count, BLOCK_P, num_stages=AHEAD):
        lane = first + tl.arange(0, BLOCK_P)
        pixels = pixels_of_piece(lane, lead, place, count, grid, ALIGN_P, JOINED)
        sums += load(given, pixels, channel, pixels.there[:, None] & live[None, :], LAYOUT)

    sums_ptrs = sums_ptr + tl.cast(piece, tl.int64) * C + channel
    tl.store(sums_ptrs, tl.sum(sums, axis=0), mask=live)


@triton.jit
def add_sums_kernel(
    sums_ptr,  # (pieces, C), float32
    result_ptr,  # (C,)
    pieces,
    C,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in range(0, pieces, BLOCK_P):
        piece = first + tl.arange(0, BLOCK_P)
        mask = (piece < pieces)[:, None] & (channel < C)[None, :]
        place = piece[:, None] * C + channel[None, :]
        total += tl.load(sums_ptr + place, mask=mask, other=0.0)

    result = tl.sum(total, axis=0).to(result_ptr.dtype.element_ty)
    tl.store(result_ptr + channel, result, mask=channel < C)
