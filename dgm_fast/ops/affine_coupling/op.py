"""Torch operators of affine coupling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.affine_coupling import reference

# A kernel knows each by its place.
SCALE_MAPS = (
    "exp",
    "tanh",
    "scaled_tanh",
    "atan",
    "soft_clip",
    "sigmoid",
    "reciprocal_sigmoid",
    "softplus",
)

_ARGUMENTS = (
    "Tensor x, Tensor? log_scale, Tensor shift, Tensor? mask, int scale_map, float bound,"
    " float min_scale, bool last, bool shift_first, bool inverse"
)


def _fake_forward(
    x: Tensor, log_scale: Tensor | None, shift: Tensor, *constants: Any
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=torch.float32)


def _fake_backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    *constants_and_needs: Any,
) -> tuple[Tensor, ...]:
    needs = constants_and_needs[-1]
    return tuple(
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((x, shift, shift), needs, strict=True)
    )


_op = Op(
    "affine_coupling",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_y, Tensor? grad_log_det, {_ARGUMENTS}, bool[3] needs)"
            " -> (Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton(
            "dgm_fast.ops.affine_coupling.kernels", torch.float32, torch.bfloat16, torch.float16
        ),
    ],
)


def _reference(
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    mask: Tensor | None,
    scale_map: int,
    bound: float,
    min_scale: float,
    last: bool,
    shift_first: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    return reference.affine_coupling(
        x,
        log_scale,
        shift,
        mask=mask,
        scale_map=SCALE_MAPS[scale_map],
        bound=None if math.isinf(bound) else bound,
        min_scale=min_scale,
        part="last" if last else "first",
        shift_first=shift_first,
        inverse=inverse,
    )


_run = differentiable(_op, (0, 1, 2), _reference)


def run(impl: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Run the implementation asked for; the arguments are the operator's."""
    x = arguments[0]
    implementation = _op.choose(impl, x.device, x.dtype)
    if implementation == "reference":
        return _reference(*arguments)

    return _run(implementation, *arguments)
