"""Tensors (B, C, P) by the tile, for kernels that do the same to all of a channel.

A tile is [BLOCK_O, BLOCK_I] elements, inner ones side by side in memory. Where these are pixels, a
tile is of one channel, and the outer ones are samples; where they are channels, as in features and
in images that have their channels last, the outer ones are pixels of all samples. A value of each
channel is a tile [1, 1] or [1, BLOCK_I], to be broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2

# Elements of a tile, and the warps of a program: 8 elements a thread.
TILE, WARPS = 2048, 8


@triton.jit
def steps_of(
    outers,
    inners,
    channels,
    pieces,
    CHANNELS_INNER: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Return a program's channel, or block of channels, its piece, and its steps [begin, end)."""
    blocks = tl.cdiv(inners, BLOCK_I)
    groups = blocks if CHANNELS_INNER else channels
    steps = tl.cdiv(outers, BLOCK_O)
    if not CHANNELS_INNER:
        steps *= blocks

    length = tl.cdiv(steps, pieces)
    piece = tl.program_id(0) // groups
    begin = piece * length
    return tl.program_id(0) % groups, piece, begin, tl.minimum(steps, begin + length)


@triton.jit
def tile_at(
    group,
    step,
    outers,
    inners,
    CHANNELS_INNER: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Return the outers [BLOCK_O, 1] and inners [1, BLOCK_I] of a step, and which there are."""
    blocks = tl.cdiv(inners, BLOCK_I)
    row = step if CHANNELS_INNER else step // blocks
    column = group if CHANNELS_INNER else step % blocks
    outer = row.to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]
    inner = column * BLOCK_I + tl.arange(0, BLOCK_I)[None, :]
    return outer, inner, (outer < outers) & (inner < inners)


@triton.jit
def place_of(group, outer, inner, stride_o, stride_c, CHANNELS_INNER: tl.constexpr):
    """Return where the elements of a tile lie."""
    place = outer * stride_o + inner
    return place if CHANNELS_INNER else place + group.to(tl.int64) * stride_c


@triton.jit
def channels_of(group, channels, CHANNELS_INNER: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return a tile's channels, [1, 1] or [1, BLOCK_I], and which there are."""
    if CHANNELS_INNER:
        channel = group * BLOCK_I + tl.arange(0, BLOCK_I)[None, :]
    else:
        channel = group + tl.zeros((1, 1), tl.int32)

    return channel, channel < channels


@triton.jit
def sum_of_channels(x, CHANNELS_INNER: tl.constexpr):
    """Return the sum of a tile for each of its channels."""
    if CHANNELS_INNER:
        return tl.sum(x, axis=0)[None, :]
    else:
        return tl.sum(tl.sum(x, axis=1)[:, None], axis=0)[None, :]


@dataclass(frozen=True)
class Tiling:
    """How tiles cover tensors (B, C, P), and where the programs are cut.

    Attributes:
        channels_inner: what is inner; follows from the first tensor.
        sizes: run-time arguments of the kernels.
        constants: compile-time arguments, and the warps.
        programs: size of the grid.
    """

    channels_inner: bool
    sizes: dict[str, int]
    constants: dict[str, Any]
    programs: int

    @classmethod
    def of(cls, x: Tensor, programs: int | None = None) -> Tiling:
        """Cover x, with one tile a program, or with about as many programs as given."""
        samples, channels, pixels = x.shape
        inner = pixels == 1 or (channels > 1 and x.stride(1) == 1)
        outers, inners = (samples * pixels, channels) if inner else (samples, pixels)
        block_i = min(TILE, next_power_of_2(inners))
        # As many rows as there are, so that few large samples do not leave a tile empty.
        block_o = min(TILE // block_i, next_power_of_2(outers))

        blocks, steps = ceil_div(inners, block_i), ceil_div(outers, block_o)
        groups, steps = (blocks, steps) if inner else (channels, steps * blocks)
        pieces = steps if programs is None else min(steps, ceil_div(programs, groups))
        sizes = {"outers": outers, "inners": inners, "channels": channels, "pieces": pieces}
        constants = {"CHANNELS_INNER": inner, "BLOCK_O": block_o, "BLOCK_I": block_i}
        return cls(inner, sizes, {**constants, "num_warps": WARPS}, groups * pieces)

    def view(self, t: Tensor) -> Tensor:
        """Return t (B, C, P) as (outers, channels or 1, inners), copied unless inners touch."""
        if self.channels_inner:
            t = t.transpose(1, 2).reshape(self.sizes["outers"], 1, self.sizes["inners"])

        return t if t.shape[2] == 1 or t.stride(2) == 1 else t.contiguous()
