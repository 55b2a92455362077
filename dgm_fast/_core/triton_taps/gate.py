"""What becomes of a sum over taps: what is added to it, its gate, and the gate's gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_math import gate_gradients, sigmoid, tanh
from dgm_fast._core.triton_taps.images import aligned, load, store, tile_of_pixels


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
def gate_backward_kernel(
    grad_y,  # images of C channels
    kept,  # images of 2 C channels
    grad,  # images of 2 C channels
    grid,
    C,
    ALIGN_C: tl.constexpr,
    ALIGN_P: tl.constexpr,
    LAYOUT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    C = aligned(C, ALIGN_C)
    tiles_c = tl.cdiv(C, BLOCK_C)
    pixels = tile_of_pixels(tl.program_id(0) // tiles_c, grid, ALIGN_P, BLOCK_P)
    channel = tl.program_id(0) % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = pixels.there[:, None] & (channel < C)[None, :]  # [BLOCK_P, BLOCK_C]

    a = load(kept, pixels, channel, mask, LAYOUT)
    b = load(kept, pixels, channel + C, mask, LAYOUT)
    above = load(grad_y, pixels, channel, mask, LAYOUT)
    grad_a, grad_b = gate_gradients(above, a, b)
    store(grad, pixels, channel, mask, grad_a, LAYOUT)
    store(grad, pixels, channel + C, mask, grad_b, LAYOUT)
