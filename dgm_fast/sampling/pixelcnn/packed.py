"""A plan as the C++ sampler takes it: all matrices in one piece, and tables of integers."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from dgm_fast.sampling.pixelcnn.plan import KINDS, Plan

__all__ = ["PackedPlan", "pack"]


@dataclass(frozen=True)
class PackedPlan:
    """Arguments of the operator.

    Attributes:
        weights: (floats,), input-major matrices in the order in which they are used: those of whole
            rows, then those of pixels.
        places: (values, 7), int64, rows of `Place` in the kernel's `problem.h`.
        works: (steps, 12), rows of `Work`.
        taps: (taps, 4), rows of `Tap`.
    """

    weights: Tensor
    places: Tensor
    works: Tensor
    taps: Tensor


def pack(plan: Plan) -> PackedPlan:
    """Lay out a plan on the CPU."""
    rowwise = [tap for work in plan.works for tap in work.above]
    pixelwise = [tap for work in plan.works for tap in work.own]
    begins, begin = {}, 0
    for tap in rowwise + pixelwise:
        begins[id(tap)] = begin
        begin += tap.matrix.numel()
    weights = [tap.matrix.flatten() for tap in rowwise + pixelwise]

    works, taps = [], []
    for work in plan.works:
        first, own = len(taps), len(taps) + len(work.above)
        taps += work.above + work.own
        kind, then = KINDS.index(work.kind), KINDS.index(work.then or "affine")
        row = kind, then, work.group, work.out, work.source, work.add, work.bias
        works.append((*row, first, own, len(taps), int(work.ahead), int(work.for_draw)))
    return PackedPlan(
        torch.cat(weights),
        torch.tensor([astuple(place) for place in plan.places]),
        torch.tensor(works),
        torch.tensor([(tap.source, tap.down, tap.right, begins[id(tap)]) for tap in taps]),
    )
