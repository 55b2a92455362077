"""Tiles of images in any layout: where their pixels lie, and what is there."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

# Tiles of a piece of pixels on their way to a program: the one it works on and two to come.
AHEAD = tl.constexpr(3)


class Images(NamedTuple):
    """Images (B, C, P), or none."""

    ptr: Any
    stride_b: Any
    stride_c: Any
    stride_p: Any


class Grid(NamedTuple):
    """What is written, or summed over: B, H and W; and what is read with it."""

    samples: Any
    height: Any
    width: Any
    lead: Any  # how many more columns what is read has in front, or less than none: fewer
    down: Any  # dilation of rows
    across: Any  # of columns


class Pixels(NamedTuple):
    """Pixels one after another, of all samples."""

    first: Any  # their number, int64
    lead: Any  # the first one's sample, int64
    sample: Any  # [BLOCK_P], counted from there
    place: Any  # [BLOCK_P], in the sample
    row: Any  # [BLOCK_P]
    column: Any  # [BLOCK_P]
    there: Any  # [BLOCK_P], whether they are in this tile's share


class Places(NamedTuple):
    """Pixels one after another, as far as it takes to load and to store them."""

    lead: Any
    sample: Any
    place: Any
    there: Any


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """Return a multiple of ALIGN, which the compiler now sees to be one."""
    return size // ALIGN * ALIGN


@triton.jit
def pixels_from(first, stop, grid, ALIGN_P: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return the pixels [first, first + BLOCK_P), there below `stop`."""
    lane = tl.arange(0, BLOCK_P)
    # One division of wide integers for the tile, of narrow ones for its pixels.
    pixels = aligned(grid.height * grid.width, ALIGN_P)
    place = aligned(tl.cast(first % pixels, tl.int32), ALIGN_P) + lane
    sample, place = place // pixels, place % pixels
    row, column = place // grid.width, place % grid.width
    return Pixels(first, first // pixels, sample, place, row, column, first + lane < stop)


@triton.jit
def tile_of_pixels(tile, grid, ALIGN_P: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return a tile's pixels, of all there are."""
    pixels = aligned(grid.height * grid.width, ALIGN_P)
    stop = tl.cast(grid.samples, tl.int64) * pixels
    return pixels_from(tl.cast(tile, tl.int64) * BLOCK_P, stop, grid, ALIGN_P, BLOCK_P)


@triton.jit
def piece_of_pixels(piece, length, grid, ALIGN_P: tl.constexpr):
    """Return the sample and the place where a piece of all pixels begins, and how many it has."""
    pixels = aligned(grid.height * grid.width, ALIGN_P)
    first = tl.cast(piece, tl.int64) * length
    left = tl.cast(grid.samples, tl.int64) * pixels - first
    place = tl.cast(first % pixels, tl.int32)
    return first // pixels, place, tl.cast(tl.minimum(left, length), tl.int32)


@triton.jit
def pixels_of_piece(
    lane,  # counted from the piece's first
    lead,
    place,
    count,
    grid,
    ALIGN_P: tl.constexpr,
    JOINED: tl.constexpr,  # whether a sample begins where the one before it would go on
):
    """Return where a tile's pixels are, of a piece that begins at a sample and place."""
    place = aligned(place, ALIGN_P) + lane
    there = lane < count
    if JOINED:
        return Places(lead, tl.zeros(lane.shape, tl.int32), place, there)
    else:
        pixels = aligned(grid.height * grid.width, ALIGN_P)
        return Places(lead, place // pixels, place % pixels, there)


@triton.jit
def _ptrs(images, pixels, channel, LAYOUT: tl.constexpr):
    """Return where channels of pixels lie, [BLOCK_P, channels]."""
    sample, place = pixels.sample, pixels.place
    if LAYOUT[3]:
        sample, place, channel = sample.to(tl.int64), place.to(tl.int64), channel.to(tl.int64)

    # What may be far, in one wide number for the tile.
    stride_b = aligned(images.stride_b, LAYOUT[0])
    start = images.ptr + pixels.lead * stride_b
    place = sample * stride_b + place * aligned(images.stride_p, LAYOUT[2])
    return start + (place[:, None] + (channel * aligned(images.stride_c, LAYOUT[1]))[None, :])


@triton.jit
def load(images, pixels, channel, mask, LAYOUT: tl.constexpr):
    values = tl.load(_ptrs(images, pixels, channel, LAYOUT), mask=mask, other=0.0)
    return values.to(tl.float32)


@triton.jit
def store(images, pixels, channel, mask, values, LAYOUT: tl.constexpr):
    values = values.to(images.ptr.dtype.element_ty)
    tl.store(_ptrs(images, pixels, channel, LAYOUT), values, mask=mask)
