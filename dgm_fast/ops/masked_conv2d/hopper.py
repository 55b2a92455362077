"""Launch `masked_conv2d` on Hopper: products in CUDA C++ where a layer fits them, else in Triton.

The CUDA kernel keeps the live weights of 64 or 128 outputs in a processor's shared memory for as
long as it runs, beside pixels on their way: what fits is decided here, from sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast._core.triton_taps import launch
from dgm_fast._core.triton_taps.images import Grid
from dgm_fast._core.triton_taps.launch import Layer
from dgm_fast.ops.masked_conv2d import kernels
from dgm_fast.ops.masked_conv2d.op import multiply_live_taps

__all__ = ["Plan", "backward", "forward", "plan_of"]

# As in csrc/masked_conv2d/hopper.h and hopper.cuh.
_CHUNK, _PIXELS, _WARP_GROUPS = 64, 64, 3
_MOST_COLUMNS, _MOST_TAPS, _MOST_STAGES, _FEWEST_STAGES = 16, 32, 4, 2
_BARRIER_BYTES, _ROW_BYTES = 1024, 2 * _CHUNK
_SHARED_BYTES = 227 * 1024
# Vectors of 16 bytes.
_TOGETHER = 8


@dataclass(frozen=True)
class Plan:
    """How the kernel goes over a layer.

    Attributes:
        tile_w: width of a tile of 64 pixels.
        tile_n: outputs of a block, both parts of a gate counted.
        tiles_n: how many blocks have all of them.
        stages: pixels on their way to a warp group.
        stage_rows: of pixels, of a stage.
        columns: taps above one another: how far they are across, how far down the first is, and
            how many they are.
        taps: of all columns, each its place in the kernel.
    """

    tile_w: int
    tile_n: int
    tiles_n: int
    stages: int
    stage_rows: int
    columns: tuple[tuple[int, int, int], ...]
    taps: tuple[int, ...]

    def numbers(self) -> list[int]:
        """Return what the operator takes."""
        return [self.tile_w, self.tile_n, self.tiles_n, self.stages, self.stage_rows]


def plan_of(layer: Layer, grid: Grid, after: bool) -> Plan | None:
    """Return how to go over a layer, or None where it does not fit.

    Arguments:
        layer: whose taps.
        grid: of the outputs or, `after`, of the inputs whose gradient is asked for.
        after: as in `launch.product`.
    """
    parts = 1 if after else layer.parts
    outputs, channels = layer.outs, layer.ins
    if after:
        outputs, channels = layer.ins, layer.parts * layer.outs
    columns, taps = _columns(layer, grid, after)
    unaligned = outputs % _TOGETHER or channels % _TOGETHER
    far = grid.height * grid.width * max(channels, outputs * parts) >= 2**31
    # A tap further down is the same pixels a row further on, not two.
    apart = grid.down != 1 and any(count > 1 for _, _, count in columns)
    many = len(columns) > _MOST_COLUMNS or len(taps) > _MOST_TAPS
    if unaligned or far or apart or many or not taps:
        return None

    rows = parts * outputs
    for tile_n in (128, 64) if rows > 64 else (64,):
        weights = len(taps) * ceil_div(channels, _CHUNK) * tile_n * _ROW_BYTES
        left = _SHARED_BYTES - _BARRIER_BYTES - weights
        for tile_w in _widths(grid):
            stage_rows = _PIXELS // tile_w + max(count for _, _, count in columns) - 1
            stages = left // (_WARP_GROUPS * stage_rows * tile_w * _ROW_BYTES)
            if stages >= _FEWEST_STAGES:
                stages = min(stages, _MOST_STAGES)
                tiles_n = ceil_div(rows, tile_n)
                return Plan(tile_w, tile_n, tiles_n, stages, stage_rows, columns, taps)
    return None


def _columns(
    layer: Layer, grid: Grid, after: bool
) -> tuple[tuple[tuple[int, int, int], ...], tuple[int, ...]]:
    """Return the columns of live taps, and the place of each tap in the kernel."""
    height, width = layer.kernel
    up, left = height // 2, width // 2
    own = 0 if layer.strict and layer.groups == 1 else 1
    columns, taps = [], []
    for across in range(-left, left + 1):
        # From the top down to the centre's row, or to the one above it.
        count = up + (1 if across < 0 else own if across == 0 else 0)
        if count > 0:
            places = [row * width + across + left for row in range(count)]
            taps += reversed(places) if after else places
            first = up - count + 1 if after else -up
            sign = -1 if after else 1
            columns.append((sign * across * grid.across, first * grid.down, count))
    return tuple(columns), tuple(taps)


def _widths(grid: Grid) -> list[int]:
    """Return the widths of a tile, those first that leave the fewest of its pixels unused."""

    def covered(width: int) -> tuple[int, int]:
        height = _PIXELS // width
        across, down = ceil_div(grid.width, width), ceil_div(grid.height, height)
        # Of those that cover as much, the squarest shares most between taps.
        return across * down, abs(width - height)

    return sorted((8, 16, 32, 64), key=covered)


def product(
    layer: Layer,
    rows: Tensor,
    grid: Grid,
    weight: Tensor,
    y: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    kept: Tensor | None = None,
    after: bool = False,
) -> None:
    """Write y as `launch.product` does, in CUDA C++ where it fits."""
    images = (y, kept, residual)
    plan = plan_of(layer, grid, after) if y.numel() > 0 and y.stride(1) == 1 else None
    # Where they lie so, y and what is kept are written in place.
    views = [None if each is None or plan is None else launch.rows_of(each) for each in images]
    if plan is None or not _start_on_16_bytes(rows, *views):
        launch.product(
            layer, rows, grid, weight, y, bias=bias, residual=residual, kept=kept, after=after
        )
        return

    of_y, of_kept, of_residual = views
    outs, ins = layer.groups_of
    multiply_live_taps(
        rows,
        weight,
        bias,
        of_residual,
        of_y,
        of_kept,
        [grid.samples, grid.height, grid.width],
        [layer.parts, outs, ins, int(layer.strict), int(after)],
        plan.numbers(),
        [number for column in plan.columns for number in column],
        list(plan.taps),
    )


def _start_on_16_bytes(*rows: Tensor | None) -> bool:
    """Whether all rows do, as vectors are loaded and stored."""
    return all(each is None or launch.alignment(each) % _TOGETHER == 0 for each in rows)


forward = partial(kernels.forward, product=product)
backward = partial(kernels.backward, product=product)
