"""How the CUDA kernel for Hopper goes over a weight's gradient: decided here, from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast._core.triton_taps import launch
from dgm_fast._core.triton_taps.images import Grid
from dgm_fast._core.triton_taps.launch import Layer
from dgm_fast.ops.masked_conv2d.hopper_tiles import (
    BARRIER_BYTES,
    CHUNK,
    MOST_STAGES,
    MOST_TAPS,
    PIXELS,
    ROW_BYTES,
    SHARED_BYTES,
    TOGETHER,
    columns_of,
    fit,
    widths_of,
)
from dgm_fast.ops.masked_conv2d.op import add_gradient_of_live_taps

__all__ = ["GradientPlan", "grad_weight", "plan_of"]

# As in csrc/masked_conv2d/hopper_gradient.cuh.
_WARP_GROUPS = 4
_FEWEST_STAGES = 2
# Pixels are cut into pieces until there is a block for each of a GPU's processors, but into none
# of fewer tiles than these. The cuts follow from the sizes alone: bits are the same every time.
_PROCESSORS, _SHORTEST = 132, 8


@dataclass(frozen=True)
class Together:
    """Taps above one another whose gradients a block adds up.

    Attributes:
        across: how far they are from the output's pixel.
        first: how far down the first is.
        taps: the place in the kernel of each, of 1, 2 or 4.
        first_job: that of their first outputs.
    """

    across: int
    first: int
    taps: tuple[int, ...]
    first_job: int


@dataclass(frozen=True)
class GradientPlan:
    """How the kernel goes over a layer.

    Attributes:
        tile_w: width of a tile of 64 pixels.
        tile_c: channels of a block.
        stages: tiles on their way to a block.
        stage: bytes of one.
        jobs: blocks of a piece and of `tile_c` channels.
        tiles_c: how many blocks have all channels.
        pieces: of the pixels.
        togethers: of all live taps.
    """

    tile_w: int
    tile_c: int
    stages: int
    stage: int
    jobs: int
    tiles_c: int
    pieces: int
    togethers: tuple[Together, ...]

    def numbers(self) -> list[int]:
        """Return what the operator takes."""
        return [self.tile_w, self.tile_c, self.stages, self.stage, self.jobs, self.tiles_c]


def plan_of(layer: Layer, grid: Grid) -> GradientPlan | None:
    """Return how to go over a layer whose sum has this grid, or None where it does not fit."""
    outs, ins = layer.parts * layer.outs, layer.ins
    togethers, jobs = _togethers(layer, grid, outs)
    taps = sum(len(each.taps) for each in togethers)
    if outs % TOGETHER or ins % TOGETHER or 0 in (outs, ins) or not 0 < taps <= MOST_TAPS:
        return None

    tile_c = 2 * CHUNK if ins > CHUNK else CHUNK
    tiles_c = ceil_div(ins, tile_c)
    for tile_w in widths_of(grid):
        stage = max(_bytes(len(each.taps), tile_w, tile_c) for each in togethers)
        stages = min(MOST_STAGES, (SHARED_BYTES - BARRIER_BYTES) // stage)
        if stages >= _FEWEST_STAGES:
            down = ceil_div(grid.height, PIXELS // tile_w)
            tiles = grid.samples * down * ceil_div(grid.width, tile_w)
            pieces = min(_PROCESSORS // (jobs * tiles_c), ceil_div(tiles, _SHORTEST))
            sizes = tile_w, tile_c, stages, stage, jobs, tiles_c, max(1, pieces)
            return GradientPlan(*sizes, togethers)
    return None


def _togethers(layer: Layer, grid: Grid, outs: int) -> tuple[tuple[Together, ...], int]:
    """Return all taps, as many together as are above one another, and how many jobs they are."""
    columns, taps = columns_of(layer, grid, False)
    togethers, jobs, place = [], 0, 0
    for across, first, count in columns:
        done = 0
        while done < count:
            # A tap further down is the same pixels a row further on, not two.
            some = 1 if grid.down != 1 else next(n for n in (4, 2, 1) if n <= count - done)
            of_these = taps[place : place + some]
            togethers.append(Together(across, first + done * grid.down, of_these, jobs))
            jobs += ceil_div(outs, _WARP_GROUPS // some * CHUNK)
            place, done = place + some, done + some
    return tuple(togethers), jobs


def _bytes(taps: int, tile_w: int, tile_c: int) -> int:
    """Return the bytes of a tile of the outputs' gradient and of x, of taps together."""
    of_grad = _WARP_GROUPS // taps * PIXELS * ROW_BYTES
    rows = PIXELS // tile_w + taps - 1
    return of_grad + tile_c // CHUNK * rows * tile_w * ROW_BYTES


def grad_weight(layer: Layer, grad: Tensor, rows: Tensor, grid: Grid, result: Tensor) -> None:
    """Write a weight's gradient as `launch.grad_weight` does, in CUDA C++ where it fits."""
    plan = plan_of(layer, grid) if rows.numel() > 0 else None
    if plan is None or not fit(grid, grad, rows):
        launch.grad_weight(layer, grad, rows, grid, result)
        return

    taps = [tap for each in plan.togethers for tap in each.taps]
    shape = plan.pieces, grad.shape[1], len(taps), rows.shape[1]
    pieces = rows.new_empty(shape, dtype=torch.float32)
    togethers = [
        [each.across, each.first, len(each.taps), each.first_job] for each in plan.togethers
    ]
    add_gradient_of_live_taps(
        grad,
        rows,
        pieces,
        [grid.samples, grid.height, grid.width],
        plan.numbers(),
        [number for each in togethers for number in each],
        taps,
    )
    launch.add_pieces(layer, pieces, len(taps), result)
