"""What becomes of a sum over taps: what is added to it, its gate, and the gate's gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_math import gate_gradients, gradients_of_powers, sigmoid, tanh
from dgm_fast._core.triton_taps.images import (
    AHEAD,
    aligned,
    load,
    piece_of_pixels,
    pixels_of_piece,
    store,
)


@triton.jit
def added(h, channel, live, pixels, bias_ptr, residual, kept, LAYOUT: tl.constexpr):
    """Add what is added to a convolution, and keep the sum for the backward."""
    mask = pixels.there[:, None] & live[None, :]
    if bias_ptr is not None:
        h += tl.load(bias_ptr + channel, mask=live, other=0.0).to(tl.float32)[None, :]
    if residual.ptr is not None:
        h += load(residual, pixels, channel, mask, LAYOUT)
    if kept.ptr is not None:
        store(kept, pixels, channel, mask, h, LAYOUT)
    return h


@triton.jit
def gated(h, channel, live, N, pixels, bias_ptr, residual, kept, LAYOUT: tl.constexpr):
    """Return what a gate makes of a convolution's columns, which come in pairs.

    The weight's rows do, so that both of a pair are in one thread's registers.
    """
    a, b = tl.split(tl.reshape(h, (h.shape[0], h.shape[1] // 2, 2)))
    a = added(a, channel, live, pixels, bias_ptr, residual, kept, LAYOUT)
    b = added(b, channel + N, live, pixels, bias_ptr, residual, kept, LAYOUT)
    return tanh(a) * sigmoid(b)


@triton.jit
def _gradients(above, a, b, NARROW: tl.constexpr):
    """Return `gate_gradients`, or what of them is left in 16 bits: to 2^-16."""
    if not NARROW:
        return gate_gradients(above, a, b)
    else:
        # Powers of 2 as GPUs have them; the exact ones would take longer than loads and stores.
        s = 2.0 * tl.abs(a)
        e, f = tl.exp2(-1.44269504 * s), tl.exp2(-1.44269504 * tl.abs(b))
        # Where e is near 1 the difference has few digits left; three terms have 1e-6 of them right.
        rest = tl.where(s < 0.03, s - s * s * (0.5 - s * 0.16666667), 1.0 - e)
        return gradients_of_powers(above, a, b, e, rest, f)


@triton.jit
def gate_backward_kernel(
    grad_y,  # images of C channels
    kept,  # images of 2 C channels
    grad,  # images of 2 C channels
    sums_ptr,  # (pieces, 2 C), of grad; float32
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

    NARROW: tl.constexpr = grad.ptr.dtype.element_ty != tl.float32
    lead, place, count = piece_of_pixels(piece, length, grid, ALIGN_P)
    of_a = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    of_b = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in tl.range(0, count, BLOCK_P, num_stages=AHEAD):
        lane = first + tl.arange(0, BLOCK_P)
        pixels = pixels_of_piece(lane, lead, place, count, grid, ALIGN_P, JOINED)
        mask = pixels.there[:, None] & live[None, :]  # [BLOCK_P, BLOCK_C]

        a = load(kept, pixels, channel, mask, LAYOUT)
        b = load(kept, pixels, channel + C, mask, LAYOUT)
        above = load(grad_y, pixels, channel, mask, LAYOUT)
        grad_a, grad_b = _gradients(above, a, b, NARROW)
        store(grad, pixels, channel, mask, grad_a, LAYOUT)
        store(grad, pixels, channel + C, mask, grad_b, LAYOUT)
        if sums_ptr is not None:
            of_a += grad_a
            of_b += grad_b

    if sums_ptr is not None:
        sums_ptrs = sums_ptr + tl.cast(piece, tl.int64) * (2 * C) + channel
        tl.store(sums_ptrs, tl.sum(of_a, axis=0), mask=live)
        tl.store(sums_ptrs + C, tl.sum(of_b, axis=0), mask=live)
