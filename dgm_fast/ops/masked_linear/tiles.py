"""Tile sizes of the Triton kernels of `masked_linear`, and the choice among them."""

from __future__ import annotations

import itertools
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
_TILES = {
    ("sm_90", "16"): (
        (128, 256, 64, 8, 3),
        (128, 128, 64, 8, 3),
        (64, 128, 64, 4, 4),
        (32, 64, 128, 4, 4),
        (16, 32, 128, 4, 4),
    ),
    ("sm_80", "16"): (
        (128, 256, 32, 8, 4),
        (128, 128, 64, 8, 3),
        (64, 128, 64, 4, 4),
        (32, 64, 128, 4, 4),
        (16, 32, 128, 4, 4),
    ),
    ("gfx942", "16"): (
        (128, 256, 64, 8, 2),
        (128, 128, 64, 8, 2),
        (64, 64, 64, 4, 2),
        (16, 32, 128, 4, 2),
    ),
    ("sm_90", "tf32"): ((128, 128, 32, 8, 3), (64, 64, 32, 4, 3), (16, 32, 64, 4, 3)),
    ("sm_80", "tf32"): ((128, 128, 32, 8, 3), (64, 64, 32, 4, 3), (16, 32, 64, 4, 3)),
    ("sm_90", "ieee"): ((128, 64, 16, 8, 3), (64, 64, 32, 8, 3), (16, 32, 64, 4, 3)),
    ("sm_80", "ieee"): ((128, 64, 16, 8, 3), (64, 64, 32, 8, 3), (16, 32, 64, 4, 3)),
    ("gfx942", "ieee"): ((128, 128, 32, 8, 2), (64, 64, 32, 4, 2), (16, 32, 64, 4, 2)),
}

# For rows that do not all start on 16 bytes: loaded an element at a time, by as many addresses.
_ODD_TILES = ((64, 64, 32, 8, 2), (16, 32, 64, 4, 2))

# Small, and of three sizes: small inputs reach every branch, and no dim passes for another.
_INTERPRETER_TILES = ((32, 128, 64, 1, 1),)


def _suited_tiles(height: int, kind: str, target: GPUTarget) -> list[tuple[int, ...]]:
    """Return the tiles worth timing for an output of that many rows."""
    tiles = _ODD_TILES if kind == "odd" else _TILES[family(target), kind]
    height = next_power_of_2(max(16, height))

    # Taller than the output wastes work; far lower reads the other operand too often.
    return [
        tile for tile in tiles if tile[0] <= height and (tile[0] >= 64 or height <= 8 * tile[0])
    ]


def tuned(blocks: str) -> Callable[[triton.JITFunction], Autotuner]:
    """Time the configs that suit a call, the first time its widths and batch bucket are seen."""

    def suited(
        configs: list[triton.Config], arguments: dict[str, Any], **_: Any
    ) -> list[triton.Config]:
        target = triton.runtime.driver.active.get_current_target()
        return configs_of(blocks, _suited_tiles(arguments[blocks[0]], arguments["KIND"], target))

    compiled = itertools.chain(_ODD_TILES, *_TILES.values())
    return triton.autotune(
        configs_of(blocks, _INTERPRETER_TILES if interpreting() else dict.fromkeys(compiled)),
        key=["batch_bucket", "I", "O", "KIND"],
        prune_configs_by={"early_config_prune": suited},
    )


def aot_configs(blocks: str, kind: str, odd: bool, target: GPUTarget) -> list[triton.Config]:
    """Return every config that `tuned` may time on a GPU; none where it lacks the arithmetic."""
    tiles = _TILES.get((family(target), kind), ())
    return configs_of(blocks, _ODD_TILES if odd and tiles else tiles)
