"""Which networks the CUDA sampler runs, and which of them sooner than a CUDA graph would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.gpu_blocks import (
    ROWS,
    SEGMENTS,
    bytes_of,
    shares_too_much,
    sums_of_parts,
    too_large,
    too_old,
)
from dgm_fast.sampling.pixelcnn.plan import IN_PIXEL, IN_ROW, Plan, Tap

__all__ = ["Sizes", "is_small", "shared_bytes", "sizes_of", "unavailable_reason"]

# As in csrc/pixel_sampler/block_memory.h: pairs of an image and a column that a pass takes.
_PAIRS = 8
# Of the kernel's tables of a place, a step, a tap and a step of a pixel.
_PLACE, _WORK, _TAP, _TURN = 7, 13, 5, 12
# Floats of a step's pointers, and of a tap's.
_SPOTS, _SEEN = 6, 2
# What a block reads of weights while a graph goes through a step, as measured on an H200.
_BYTES_OF_A_STEP = 80e9 * 4.8e-6


@dataclass(frozen=True)
class Sizes:
    """What room a sampler takes, in the order of `Sizes` in the kernel's `problem.h`."""

    row: int
    pixel: int
    values: int
    steps: int
    taps: int
    turns: int
    above: int
    most_above: int
    own_sums: int
    above_sums: int


def sizes_of(plan: Plan) -> Sizes:
    """Return the sizes of a plan."""
    works = plan.works
    drawn = [plan.places[work.source].floats for work in works if work.kind == "draw"]
    return Sizes(
        row=sum(p.rows * p.columns * p.floats for p in plan.places if p.where == IN_ROW),
        pixel=sum(p.floats for p in plan.places if p.where == IN_PIXEL),
        values=len(plan.places),
        steps=len(works),
        taps=sum(len(work.above) + len(work.own) for work in works),
        turns=sum(not work.ahead for work in works),
        above=sum(len(work.above) for work in works),
        most_above=max(len(work.above) for work in works),
        own_sums=max(drawn + [_sums(plan, work.out, work.own) for work in works]),
        above_sums=max(_sums(plan, work.out, work.above) for work in works),
    )


def unavailable_reason(plan: Plan, device: torch.device) -> str | None:
    """Return why the kernel cannot run a plan on a GPU, or None when it can."""
    reason = too_old(device)
    if reason is not None:
        return reason

    sizes = sizes_of(plan)
    matrices = [(work.above + work.own, plan.places[work.out].floats) for work in plan.works]
    arrays = [
        ("the weights", sum(_rows(taps) * outs for taps, outs in matrices)),
        ("what is kept of an image", plan.floats),
        ("a row of an image", sizes.row),
    ]
    needed = shared_bytes(sizes)
    return too_large(arrays) or shares_too_much(device, needed, "an image")


def is_small(plan: Plan) -> bool:
    """Whether a block reads a pixel's weights before a graph has gone through its steps."""
    steps = sum(not work.ahead for work in plan.works)
    return 4 * plan.multiply_adds <= steps * _BYTES_OF_A_STEP


def shared_bytes(sizes: Sizes) -> int:
    """Return what a block of one image shares, as `Shared` of `block_memory.h` has it."""
    own = sizes.taps - sizes.above
    parts = [
        sizes.values * _PLACE,
        sizes.steps * _WORK,
        (sizes.taps + 1) * _TAP,
        sizes.turns * _TURN,
        ROWS,
        sizes.pixel,
        max(sizes.own_sums, _PAIRS * sizes.above_sums),
        max(sizes.turns, _PAIRS) * _SPOTS,
        max(own, _PAIRS * sizes.most_above) * _SEEN,
        *(SEGMENTS, 2 * SEGMENTS),
    ]
    return bytes_of(parts)


def _rows(taps: Sequence[Tap]) -> int:
    """Return how many rows the matrices of taps have, each in whole pieces."""
    return sum(ceil_div(len(tap.matrix), ROWS) * ROWS for tap in taps)


def _sums(plan: Plan, out: int, taps: Sequence[Tap]) -> int:
    """Return how many sums of parts the product of a step's taps leaves."""
    return sums_of_parts(_rows(taps), plan.places[out].floats)
