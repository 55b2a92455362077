"""A plan as the C++ and CUDA samplers take it: matrices in one piece, and tables of integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.gpu_blocks import ROWS
from dgm_fast.sampling.pixelcnn.blocks import sizes_of
from dgm_fast.sampling.pixelcnn.plan import KINDS, Place, Plan, Tap

__all__ = ["PackedPlan", "pack"]


@dataclass(frozen=True)
class PackedPlan:
    """Arguments of the operator.

    Attributes:
        weights: (floats,), input-major matrices in the order in which they are used: those of whole
            rows, then those of pixels. Zeros fill up their last piece of `ROWS` rows.
        places: (values, 7), int64, rows of `Place` in the kernel's `problem.h`.
        works: (steps, 13), rows of `Work`.
        taps: (taps + 1, 5), rows of `Tap`, in the order of the matrices.
        sizes: in the order of `Sizes`.
    """

    weights: Tensor
    places: Tensor
    works: Tensor
    taps: Tensor
    sizes: list[int]


def pack(plan: Plan) -> PackedPlan:
    """Lay out a plan on the device of its weights."""
    device = plan.bias.device
    rowwise = [tap for work in plan.works for tap in work.above]
    pixelwise = [tap for work in plan.works for tap in work.own]

    works, above, own = [], 0, len(rowwise)
    for work in plan.works:
        kind, then = KINDS.index(work.kind), KINDS.index(work.then or "affine")
        row = kind, then, work.group, work.out, work.source, work.add, work.bias
        ends = above + len(work.above), own + len(work.own)
        works.append((*row, above, ends[0], own, ends[1], int(work.ahead), int(work.for_draw)))
        above, own = ends
    return PackedPlan(
        torch.cat([_in_pieces(tap.matrix).flatten() for tap in rowwise + pixelwise]),
        torch.tensor([_row_of_place(place) for place in plan.places], device=device),
        torch.tensor(works, device=device),
        torch.tensor(_rows_of_taps(rowwise + pixelwise), device=device),
        list(astuple(sizes_of(plan))),
    )


def _in_pieces(matrix: Tensor) -> Tensor:
    return F.pad(matrix, (0, 0, 0, -len(matrix) % ROWS))


def _row_of_place(place: Place) -> tuple[int, ...]:
    shift = place.stride.bit_length() - 1
    where = place.rows, place.columns, place.where, place.offset
    return place.floats, place.depth, shift, *where


def _rows_of_taps(taps: Iterable[Tap]) -> list[tuple[int, ...]]:
    """Return the table of taps, and what ends it."""
    rows, floats, pieces = [], 0, 0
    for tap in taps:
        rows.append((tap.source, tap.down, tap.right, floats, pieces))
        count = ceil_div(len(tap.matrix), ROWS)
        floats, pieces = floats + count * ROWS * tap.matrix.shape[1], pieces + count
    return [*rows, (0, 0, 0, floats, pieces)]
