"""What the tables of tiles have in common: families of GPUs, and Triton's form of a tile."""

from __future__ import annotations

from collections.abc import Iterable

import triton
from triton.backends.compiler import GPUTarget


def family(target: GPUTarget) -> str:
    """Return the GPU that a table has in place of this one."""
    if target.backend == "hip":
        return "gfx942"

    return "sm_90" if target.arch >= 90 else "sm_80"


def configs_of(blocks: str, tiles: Iterable[tuple[int, ...]]) -> list[triton.Config]:
    """Return tiles as the configs of a kernel whose dims, in their order, `blocks` names."""
    names = [f"BLOCK_{dim}" for dim in blocks]
    return [
        triton.Config(dict(zip(names, sizes, strict=True)), num_warps=warps, num_stages=stages)
        for *sizes, warps, stages in tiles
    ]
