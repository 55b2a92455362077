"""The torch operator of the sampler of images, and which of its kernels a network runs on."""

from __future__ import annotations

import torch

from dgm_fast._core.implementation import cpp, cuda
from dgm_fast._core.op import Direction, Op
from dgm_fast.sampling import choice
from dgm_fast.sampling.pixelcnn.blocks import is_small, unavailable_reason
from dgm_fast.sampling.pixelcnn.plan import Plan

__all__ = ["choose", "draw"]


def _fake_draw(*arguments: object) -> None:
    return None


# It moves the images, what is kept of their rows, and the number of rows done on: of noise, or on a
# GPU of a seed, whose first sample and place, and how many places, are `of_seed`.
_op = Op(
    "pixel_sampler",
    {
        "draw": Direction(
            "(Tensor(a!) images, Tensor(b!) rows, Tensor(c!) done, Tensor(d!)? parameters, "
            "Tensor given, Tensor? noise, Tensor? seed, int[] of_seed, Tensor condition, "
            "Tensor weights, Tensor places, Tensor works, Tensor taps, int[] sizes, int last, "
            "str output, int outputs, int at_once, int levels, bool ones, float temperature, "
            "int top_k, float top_p, float lowest_log_scale, int multiply_adds) -> ()",
            _fake_draw,
        )
    },
    [cpp(torch.float32), cuda(torch.float32)],
)

draw = {name: _op.kernels["draw", name] for name in _op.implementations}


def choose(impl: str, plan: Plan) -> str:
    """Return the implementation, `"reference"`, `"cpp"` or `"cuda"`, of a plan's sampler."""
    return choice.choose_by_size(
        _op,
        impl,
        plan.bias,
        lambda: unavailable_reason(plan, plan.bias.device),
        lambda: is_small(plan),
    )
