"""What is moved before a product and after one, as Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sees(out, channel, group_o, group_c, STRICT: tl.constexpr):
    """Whether an output sees a channel at its own pixel."""
    if STRICT:
        return out // group_o > channel // group_c
    else:
        return out // group_o >= channel // group_c


@triton.jit
def pack_kernel(
    weight_ptr,  # (PARTS O, I, taps), any strides
    packed_ptr,  # (N, TAPS, C) of live taps: N and C outputs and inputs, or AFTER the opposite
    O,
    I,
    group_o,
    group_i,
    weight_stride_o,
    weight_stride_i,
    weight_stride_t,
    packed_stride_n,
    packed_stride_t,
    AFTER: tl.constexpr,
    STRICT: tl.constexpr,
    PARTS: tl.constexpr,
    CENTRE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    rows, channels = (I, O * PARTS) if AFTER else (O * PARTS, I)
    blocks = tl.cdiv(channels, BLOCK_C)
    tap = tl.program_id(0) // blocks % (CENTRE + 1)
    n = tl.program_id(0) // (blocks * (CENTRE + 1)) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]

    if AFTER:
        # Turned around: an input hears from the outputs that see it, its own pixel's first.
        out, channel, source = c, n, CENTRE - tap
    else:
        # Of a gate both halves' rows side by side, in pairs.
        out, channel, source = n // PARTS + n % PARTS * O, c, tap

    there = (n < rows) & (c < channels)
    live = there & ((source < CENTRE) | _sees(out % O, channel, group_o, group_i, STRICT))
    place = out * weight_stride_o + channel * weight_stride_i + source * weight_stride_t
    weight = tl.load(weight_ptr + place, mask=live, other=0.0)  # [BLOCK_N, BLOCK_C]
    tl.store(packed_ptr + n * packed_stride_n + tap * packed_stride_t + c, weight, mask=there)


@triton.jit
def finish_kernel(
    parts_ptr,  # (pieces, PARTS O, TAPS, I)
    grad_weight_ptr,  # (PARTS O, I, taps)
    pieces,
    rows,  # PARTS O
    O,
    I,
    group_o,
    group_i,
    STRICT: tl.constexpr,
    TAPS: tl.constexpr,
    CENTRE: tl.constexpr,
    ELEMENTS: tl.constexpr,  # taps, with the dead ones
    BLOCK_E: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)[:, None]
    tap = tl.arange(0, BLOCK_T)[None, :]
    out, channel = e // I, e % I
    sees = _sees(out % O, channel, group_o, group_i, STRICT)
    live = (e < rows * I) & (tap < TAPS) & ((tap < CENTRE) | sees)
    parts_ptrs = parts_ptr + (out * TAPS + tap) * I + channel

    # Pieces in their order, so that bits are the same every time.
    total = tl.zeros((BLOCK_E, BLOCK_T), tl.float32)
    for piece in range(pieces):
        place = tl.cast(piece, tl.int64) * rows * TAPS * I
        total += tl.load(parts_ptrs + place, mask=live, other=0.0)

    mask = (e < rows * I) & (tap < ELEMENTS)
    tl.store(grad_weight_ptr + e * ELEMENTS + tap, total.to(grad_weight_ptr.dtype.element_ty), mask)


@triton.jit
def rows_kernel(
    images_ptr,  # (B, C, P), any strides
    stride_b,
    stride_c,
    stride_p,
    rows_ptr,  # (B P, C)
    C,
    P,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    tiles_c, tiles_p = tl.cdiv(C, BLOCK_C), tl.cdiv(P, BLOCK_P)
    c = tl.program_id(0) % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0) // tiles_c % tiles_p * BLOCK_P + tl.arange(0, BLOCK_P)
    sample = (tl.program_id(0) // (tiles_c * tiles_p)).to(tl.int64)
    mask = (c < C)[:, None] & (p < P)[None, :]

    of_c, of_p = c.to(tl.int64) * stride_c, p.to(tl.int64) * stride_p
    x_ptrs = images_ptr + sample * stride_b + of_c[:, None] + of_p[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0)  # [BLOCK_C, BLOCK_P]
    # Turned here, so that reads and writes both go along what lies side by side.
    rows_ptrs = rows_ptr + ((sample * P + p) * C)[:, None] + c[None, :]
    tl.store(rows_ptrs, tl.trans(x), mask=tl.trans(mask))
