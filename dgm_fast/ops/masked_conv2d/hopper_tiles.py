"""What the CUDA kernels for Hopper have in common: their tiles, and how taps are ordered."""

from __future__ import annotations

from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast._core.triton_taps import launch
from dgm_fast._core.triton_taps.images import Grid
from dgm_fast._core.triton_taps.launch import Layer

__all__ = [
    "BARRIER_BYTES",
    "CHUNK",
    "MOST_STAGES",
    "MOST_TAPS",
    "PIXELS",
    "ROW_BYTES",
    "SHARED_BYTES",
    "TOGETHER",
    "columns_of",
    "fit",
    "widths_of",
]

# As in csrc/masked_conv2d/hopper.h and hopper_pixels.cuh.
CHUNK, PIXELS = 64, 64
MOST_TAPS, MOST_STAGES = 32, 4
BARRIER_BYTES, ROW_BYTES = 1024, 2 * CHUNK
SHARED_BYTES = 227 * 1024
# Vectors of 16 bytes.
TOGETHER = 8


def columns_of(
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


def widths_of(grid: Grid) -> list[int]:
    """Return the widths of a tile, those first that leave the fewest of its pixels unused."""

    def covered(width: int) -> tuple[int, int]:
        height = PIXELS // width
        across, down = ceil_div(grid.width, width), ceil_div(grid.height, height)
        # Of those that cover as much, the squarest shares most between taps.
        return across * down, abs(width - height)

    return sorted((8, 16, 32, 64), key=covered)


def fit(grid: Grid, *rows: Tensor | None) -> bool:
    """Whether rows start on 16 bytes, as vectors are loaded, and a sample's lie within 2^31."""
    return all(
        launch.alignment(each) % TOGETHER == 0 and grid.height * grid.width * each.stride(0) < 2**31
        for each in rows
        if each is not None
    )
