"""The passes over the pixels as Triton kernels, and what is left of them for the parameters.

Pixels of all samples are cut into tiles of BLOCK_P. Where samples have as many, a tile lies in one
(`INSIDE`), and its loads are wide; smaller samples share one.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pixels(tile, samples, pixels, INSIDE: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return the sample and the pixel in it of a tile's pixels, int64, and which there are."""
    lane = tl.arange(0, BLOCK_P)
    if INSIDE:
        tiles = tl.cdiv(pixels, BLOCK_P)
        sample = tile // tiles + tl.zeros_like(lane)
        pixel = tile % tiles * BLOCK_P + lane
        live = pixel < pixels
    else:
        # One division of wide integers for the tile, of narrow ones for its pixels.
        first = tl.cast(tile, tl.int64) * BLOCK_P
        place = (first % pixels).to(tl.int32) + lane
        sample = (first // pixels).to(tl.int32) + place // pixels
        pixel = place % pixels
        live = sample < samples
    return sample.to(tl.int64), pixel.to(tl.int64), live


@triton.jit
def product_kernel(
    x_ptr,  # (B, C, P), any strides
    matrix_ptr,  # (C, C), any strides
    bias_ptr,  # (C,), or None
    y_ptr,  # (B, C, P), contiguous
    samples,
    channels,
    pixels,
    x_stride_b,
    x_stride_c,
    x_stride_p,
    matrix_stride_o,
    matrix_stride_i,
    INSIDE: tl.constexpr,
    NEGATE: tl.constexpr,  # subtract the bias
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK_C)
    sample, pixel, live = _pixels(tl.program_id(0) // blocks, samples, pixels, INSIDE, BLOCK_P)
    out = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]  # [BLOCK_C, 1]
    in_ptrs = x_ptr + (sample * x_stride_b + pixel * x_stride_p)[None, :]
    # Rows past the end are the last one again: read, and not stored.
    row_ptrs = matrix_ptr + tl.minimum(out, channels - 1) * matrix_stride_o

    # As outer products: neither channels nor their number are padded, and pixels of low precision
    # are multiplied by float32.
    y = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for c in range(channels):
        wide = tl.cast(c, tl.int64)
        x = tl.load(in_ptrs + wide * x_stride_c, mask=live[None, :], other=0.0).to(tl.float32)
        y += tl.load(row_ptrs + c * matrix_stride_i) * x

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + tl.minimum(out, channels - 1))
        y += -bias if NEGATE else bias
    out_ptrs = y_ptr + (sample[None, :] * channels + out) * pixels + pixel[None, :]
    tl.store(out_ptrs, y.to(y_ptr.dtype.element_ty), mask=(out < channels) & live[None, :])


@triton.jit
def sums_kernel(
    grad_ptr,  # (B, C, P), any strides
    x_ptr,  # (B, C, P), any strides
    sums_ptr,  # (pieces, C, C + 1): of grad x^T, and of grad
    samples,
    channels,
    pixels,
    grad_stride_b,
    grad_stride_c,
    grad_stride_p,
    x_stride_b,
    x_stride_c,
    x_stride_p,
    tiles,
    pieces,
    INSIDE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    piece = tl.program_id(0) % pieces
    blocks = tl.cdiv(channels, BLOCK_C)
    of_grad = tl.program_id(0) // pieces // blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    of_x = tl.program_id(0) // pieces % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    length = tl.cdiv(tiles, pieces)

    products = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
    plain = tl.zeros((BLOCK_C,), tl.float32)
    for tile in range(piece * length, tl.minimum(tiles, (piece + 1) * length)):
        sample, pixel, live = _pixels(tile, samples, pixels, INSIDE, BLOCK_P)
        grad_ptrs = grad_ptr + (sample * grad_stride_b + pixel * grad_stride_p)[None, :]
        grad_live = (of_grad < channels)[:, None] & live[None, :]
        grad_place = of_grad[:, None].to(tl.int64) * grad_stride_c
        grad = tl.load(grad_ptrs + grad_place, mask=grad_live, other=0.0)  # [BLOCK_C, BLOCK_P]
        x_ptrs = x_ptr + (sample * x_stride_b + pixel * x_stride_p)[:, None]
        x_live = (of_x < channels)[None, :] & live[:, None]
        x_place = of_x[None, :].to(tl.int64) * x_stride_c
        x = tl.load(x_ptrs + x_place, mask=x_live, other=0.0)  # [BLOCK_P, BLOCK_C]
        # Products of low precision are exact in float32, in which they are added.
        products = tl.dot(grad, x, products, input_precision="ieee")
        plain += tl.sum(grad.to(tl.float32), axis=1)

    row_ptrs = sums_ptr + (piece.to(tl.int64) * channels + of_grad) * (channels + 1)
    live = (of_grad < channels)[:, None] & (of_x < channels)[None, :]
    tl.store(row_ptrs[:, None] + of_x[None, :], products, mask=live)
    if tl.program_id(0) // pieces % blocks == 0:
        tl.store(row_ptrs + channels, plain, mask=of_grad < channels)
