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
from dgm_fast.ops.masked_conv2d.hopper_gradient import grad_weight
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
from dgm_fast.ops.masked_conv2d.op import multiply_live_taps

__all__ = ["Plan", "backward", "forward", "plan_of"]

# As in csrc/masked_conv2d/hopper.h and hopper_pixels.cuh.
_WARP_GROUPS, _MOST_COLUMNS, _FEWEST_STAGES = 3, 16, 2


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
    columns, taps = columns_of(layer, grid, after)
    unaligned = outputs % TOGETHER or channels % TOGETHER
    # A tap further down is the same pixels a row further on, not two.
    apart = grid.down != 1 and any(count > 1 for _, _, count in columns)
    many = len(columns) > _MOST_COLUMNS or len(taps) > MOST_TAPS
    if unaligned or apart or many or not taps:
        return None

    rows = parts * outputs
    for tile_n in (128, 64) if rows > 64 else (64,):
        weights = len(taps) * ceil_div(channels, CHUNK) * tile_n * ROW_BYTES
        left = SHARED_BYTES - BARRIER_BYTES - weights
        for tile_w in widths_of(grid):
            stage_rows = PIXELS // tile_w + max(count for _, _, count in columns) - 1
            stages = left // (_WARP_GROUPS * stage_rows * tile_w * ROW_BYTES)
            if stages >= _FEWEST_STAGES:
                stages = min(stages, MOST_STAGES)
                tiles_n = ceil_div(rows, tile_n)
                return Plan(tile_w, tile_n, tiles_n, stages, stage_rows, columns, taps)
    return None


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
    if plan is None or not fit(grid, rows, *views):
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


forward = partial(kernels.forward, product=product)
backward = partial(kernels.backward, product=product, of_weight=grad_weight)
