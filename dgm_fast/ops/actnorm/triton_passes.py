"""The passes of activation normalization as Triton kernels.

With f = e^s and t, or f = e^-s and -t where inverse, they are y = (x + t) f and y = x f + t.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_channels import (
    channels_of,
    place_of,
    steps_of,
    sum_of_channels,
    tile_at,
)
from dgm_fast._core.triton_math import exp


@triton.jit
def _load_channels(ptr, stride, channel, live):
    return tl.load(ptr + channel * stride, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _store_log_det(
    log_scale_ptr,
    log_scale_stride,
    log_det_ptr,
    samples,
    channels,
    pixels,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the log-determinants of the program's block of samples, which are all the same."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < samples:
        total = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, channels, BLOCK):
            channel = first + tl.arange(0, BLOCK)
            total += _load_channels(log_scale_ptr, log_scale_stride, channel, channel < channels)

        log_det = tl.sum(total, axis=0) * pixels
        log_det = -log_det if INVERSE else log_det
        tl.store(log_det_ptr + sample, log_det + tl.zeros((BLOCK,), tl.float32), sample < samples)


@triton.jit
def forward_kernel(
    x_ptr,  # (O, C or 1, I): outers, lines, inners side by side
    log_scale_ptr,  # (C,)
    shift_ptr,  # (C,)
    y_ptr,  # (O, C or 1, I)
    log_det_ptr,  # (B,)
    samples,  # B
    pixels,  # P
    outers,
    inners,
    channels,
    pieces,
    x_stride_o,
    x_stride_c,
    log_scale_stride,
    shift_stride,
    y_stride_o,
    y_stride_c,
    INVERSE: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _store_log_det(
        log_scale_ptr, log_scale_stride, log_det_ptr, samples, channels, pixels, INVERSE, BLOCK
    )

    group, _, begin, end = steps_of(
        outers, inners, channels, pieces, CHANNELS_INNER, BLOCK_O, BLOCK_I
    )
    channel, there = channels_of(group, channels, CHANNELS_INNER, BLOCK_I)
    s = _load_channels(log_scale_ptr, log_scale_stride, channel, there)
    t = _load_channels(shift_ptr, shift_stride, channel, there)
    factor = exp(-s if INVERSE else s)  # [1, BLOCK_I] or [1, 1]

    for step in range(begin, end):
        outer, inner, live = tile_at(
            group, step, outers, inners, CHANNELS_INNER, BLOCK_O, BLOCK_I
        )  # [BLOCK_O, BLOCK_I]
        x_place = place_of(group, outer, inner, x_stride_o, x_stride_c, CHANNELS_INNER)
        y_place = place_of(group, outer, inner, y_stride_o, y_stride_c, CHANNELS_INNER)
        x = tl.load(x_ptr + x_place, mask=live, other=0.0).to(tl.float32)
        y = x * factor - t if INVERSE else (x + t) * factor
        tl.store(y_ptr + y_place, y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def backward_kernel(
    grad_y_ptr,  # (O, C or 1, I), as in the forward
    x_ptr,  # (O, C or 1, I)
    log_scale_ptr,  # (C,)
    shift_ptr,  # (C,)
    grad_x_ptr,  # (O, C or 1, I), or None
    plain_ptr,  # (pieces, C), sums of grad_y, or None
    scaled_ptr,  # (pieces, C), sums of grad_y times what is scaled
    outers,
    inners,
    channels,
    pieces,
    grad_y_stride_o,
    grad_y_stride_c,
    x_stride_o,
    x_stride_c,
    log_scale_stride,
    shift_stride,
    grad_x_stride_o,
    grad_x_stride_c,
    INVERSE: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    group, piece, begin, end = steps_of(
        outers, inners, channels, pieces, CHANNELS_INNER, BLOCK_O, BLOCK_I
    )
    channel, there = channels_of(group, channels, CHANNELS_INNER, BLOCK_I)
    s = _load_channels(log_scale_ptr, log_scale_stride, channel, there)
    t = _load_channels(shift_ptr, shift_stride, channel, there)
    factor = exp(-s if INVERSE else s)  # [1, BLOCK_I] or [1, 1]

    plain = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    scaled = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    for step in range(begin, end):
        outer, inner, live = tile_at(
            group, step, outers, inners, CHANNELS_INNER, BLOCK_O, BLOCK_I
        )  # [BLOCK_O, BLOCK_I]
        place = place_of(group, outer, inner, grad_y_stride_o, grad_y_stride_c, CHANNELS_INNER)
        g = tl.load(grad_y_ptr + place, mask=live, other=0.0).to(tl.float32)
        if grad_x_ptr is not None:
            place = place_of(group, outer, inner, grad_x_stride_o, grad_x_stride_c, CHANNELS_INNER)
            tl.store(grad_x_ptr + place, (g * factor).to(grad_x_ptr.dtype.element_ty), mask=live)

        if plain_ptr is not None:
            place = place_of(group, outer, inner, x_stride_o, x_stride_c, CHANNELS_INNER)
            x = tl.load(x_ptr + place, mask=live, other=0.0).to(tl.float32)
            plain += g
            # An infinite t must not make NaN of what is not there.
            scaled += g * (x if INVERSE else tl.where(live, x + t, 0.0))

    if plain_ptr is not None:
        place = piece * channels + channel
        tl.store(plain_ptr + place, sum_of_channels(plain, CHANNELS_INNER), mask=there)
        tl.store(scaled_ptr + place, sum_of_channels(scaled, CHANNELS_INNER), mask=there)


@triton.jit
def _sum_of_pieces(ptr, channel, pieces, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in range(0, pieces, BLOCK_P):
        piece = first + tl.arange(0, BLOCK_P)[:, None]
        live = (piece < pieces) & (channel < channels)[None, :]
        total += tl.load(ptr + piece * channels + channel[None, :], mask=live, other=0.0)

    return tl.sum(total, axis=0)


@triton.jit
def parameters_kernel(
    plain_ptr,  # (pieces, C), or None where no gradient of y arrived
    scaled_ptr,
    grad_log_det_ptr,  # (B,), or None
    log_scale_ptr,  # (C,)
    grad_log_scale_ptr,  # (C,), or None
    grad_shift_ptr,  # (C,), or None
    samples,  # B
    pixels,  # P
    channels,
    pieces,
    grad_log_det_stride,
    log_scale_stride,
    INVERSE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    s = _load_channels(log_scale_ptr, log_scale_stride, channel, there)
    factor = exp(-s if INVERSE else s)

    plain = tl.zeros((BLOCK_C,), tl.float32)
    scaled = tl.zeros((BLOCK_C,), tl.float32)
    if plain_ptr is not None:
        plain = _sum_of_pieces(plain_ptr, channel, pieces, channels, BLOCK_P, BLOCK_C)
        scaled = factor * _sum_of_pieces(scaled_ptr, channel, pieces, channels, BLOCK_P, BLOCK_C)

    if grad_log_det_ptr is not None:
        total = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, samples, BLOCK):
            sample = first + tl.arange(0, BLOCK)
            place = sample.to(tl.int64) * grad_log_det_stride
            total += tl.load(grad_log_det_ptr + place, mask=sample < samples, other=0.0)
        scaled += tl.sum(total, axis=0) * pixels

    if grad_log_scale_ptr is not None:
        grad = (-scaled if INVERSE else scaled).to(grad_log_scale_ptr.dtype.element_ty)
        tl.store(grad_log_scale_ptr + channel, grad, mask=there)
    if grad_shift_ptr is not None:
        grad = (-plain if INVERSE else factor * plain).to(grad_shift_ptr.dtype.element_ty)
        tl.store(grad_shift_ptr + channel, grad, mask=there)
