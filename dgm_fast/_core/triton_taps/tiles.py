"""Tile sizes of the sums over taps, and the choice among them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import Autotuner

from dgm_fast._core.implementation import interpreting
from dgm_fast._core.integers import next_power_of_2
from dgm_fast._core.triton_tiles import configs_of, family

# Output tile (m, n), block k of the sum, warps, stages; by family of GPUs and arithmetic. Few, as
# each is timed when a shape is first seen, and none spills on any GPU of its family.
Tile = tuple[int, int, int, int, int]
Tiles = dict[tuple[str, str], tuple[Tile, ...]]
_TILES: Tiles = {
    ("sm_90", "16"): (
        (128, 256, 64, 8, 3),
        (128, 128, 64, 8, 3),
        (128, 64, 64, 8, 3),
        (64, 128, 64, 4, 3),
        (64, 64, 64, 4, 3),
        (32, 32, 64, 4, 4),
    ),
    ("sm_80", "16"): (
        (128, 256, 32, 8, 3),
        (128, 128, 32, 8, 4),
        (128, 64, 64, 8, 3),
        (64, 128, 64, 4, 3),
        (64, 64, 32, 4, 4),
        (32, 32, 64, 4, 4),
    ),
    ("gfx942", "16"): (
        (128, 128, 64, 8, 2),
        (128, 64, 64, 4, 2),
        (64, 128, 64, 4, 2),
        (64, 64, 32, 4, 2),
        (32, 32, 64, 4, 2),
    ),
    ("sm_90", "tf32"): ((128, 128, 32, 8, 2), (64, 64, 32, 8, 3), (32, 32, 32, 4, 3)),
    ("sm_80", "tf32"): ((128, 128, 32, 8, 3), (64, 64, 32, 4, 3), (32, 32, 32, 4, 3)),
    ("sm_90", "ieee"): ((128, 64, 16, 8, 3), (64, 64, 16, 8, 3), (32, 32, 64, 4, 2)),
    ("sm_80", "ieee"): ((128, 64, 16, 8, 3), (64, 64, 16, 8, 3), (32, 32, 64, 4, 2)),
    ("gfx942", "ieee"): ((128, 64, 32, 8, 2), (64, 64, 32, 4, 2), (32, 32, 32, 4, 2)),
}

# For pixels that do not all start on 16 bytes, and few channels: loaded an element at a time.
_ODD_TILES = ((64, 64, 32, 8, 2), (32, 32, 16, 4, 2))

# Small, and of three sizes: small inputs reach every branch, and no dim passes for another.
_INTERPRETER_SIZES = {"P": 128, "N": 64, "O": 64, "C": 32}

LARGEST_P = 128  # pixels of a tile of images

# Of the kernels that only move, map and add up what is in memory.
PACK = {"BLOCK_N": 32, "BLOCK_C": 64, "num_warps": 4}
ROWS = {"BLOCK_P": 64, "BLOCK_C": 64, "num_warps": 4}
_FINISH = 512
ADD = {"BLOCK_P": 1024, "BLOCK_C": 8, "num_warps": 8}
# Elements of a tile of those that go over pieces of the pixels. In 16 bits each thread has a vector
# of 16 bytes of each of three operands that are gated, or two of what is only summed.
GATE, SUM = 1024, 2048
_PIECE_WARPS = 4

# Where one tile's area is this many times another's, the smaller one reads operands too often.
_TOO_SMALL = 16


def _suited_tiles(
    height: int, width: int, kind: str, target: GPUTarget, table: Tiles = _TILES
) -> list[Tile]:
    """Return the tiles worth timing for an output of that size."""
    tiles = _odd_tiles(target, table) if kind == "odd" else table[family(target), kind]
    height, width = (next_power_of_2(max(size, tiles[-1][0])) for size in (height, width))
    # Larger than the output wastes work.
    fitting = [tile for tile in tiles if tile[0] <= height and tile[1] <= width]
    largest = max(math.prod(tile[:2]) for tile in fitting)
    return [tile for tile in fitting if math.prod(tile[:2]) * _TOO_SMALL > largest]


def _odd_tiles(target: GPUTarget, table: Tiles) -> tuple[Tile, ...]:
    return table.get((family(target), "odd"), _ODD_TILES)


def tuned(
    blocks: str, height: str, table: Tiles = _TILES
) -> Callable[[triton.JITFunction], Autotuner]:
    """Time the configs that suit a call, the first time its layer and pixel bucket are seen.

    Arguments:
        blocks: dims of a tile.
        height: argument of the kernel for the size of its output in the first of them; in the
            second it is `columns`.
        table: the tiles; those of "odd" are the same for all kernels where it has none.
    """

    def suited(
        configs: list[triton.Config], arguments: dict[str, Any], **constants: Any
    ) -> list[triton.Config]:
        given = arguments | constants
        target = triton.runtime.driver.active.get_current_target()
        return configs_of(
            blocks, _suited_tiles(given[height], given["columns"], given["KIND"], target, table)
        )

    compiled = itertools.chain(_ODD_TILES, *table.values())
    interpreted = (*(_INTERPRETER_SIZES[dim] for dim in blocks), 1, 1)
    return triton.autotune(
        configs_of(blocks, (interpreted,) if interpreting() else dict.fromkeys(compiled)),
        key=["pixel_bucket", "O", "C", "columns", "KIND", "KERNEL"],
        prune_configs_by={"early_config_prune": suited},
    )


def piece_tile(elements: int, channels: int, are_rows: bool) -> dict[str, int]:
    """Return a tile of so many elements, long in that dim of which elements lie side by side."""
    fewest, most = (16, 128) if are_rows else (4, 32)
    block_c = min(most, max(fewest, next_power_of_2(channels)))
    return {"BLOCK_P": elements // block_c, "BLOCK_C": block_c, "num_warps": _PIECE_WARPS}


def finish_tiles(elements: int) -> dict[str, int]:
    """Return the tile in which gradients of a weight with so many taps are finished."""
    block_t = next_power_of_2(elements)
    return {"BLOCK_E": max(1, _FINISH // block_t), "BLOCK_T": block_t}


def aot_configs(
    blocks: str, kind: str, odd: bool, target: GPUTarget, table: Tiles = _TILES
) -> list[triton.Config]:
    """Return every config that `tuned` may time on a GPU; none where it lacks the arithmetic."""
    tiles = table.get((family(target), kind), ())
    return configs_of(blocks, _odd_tiles(target, table) if odd and tiles else tiles)
