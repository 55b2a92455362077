"""Torch operators of activation normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.actnorm import reference

_ARGUMENTS = "Tensor x, Tensor log_scale, Tensor shift, bool inverse"


def _fake_forward(
    x: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=torch.float32)


def _fake_backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    inverse: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    return tuple(
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((x, log_scale, shift), needs, strict=True)
    )


_op = Op(
    "actnorm",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_y, Tensor? grad_log_det, {_ARGUMENTS}, bool[3] needs)"
            " -> (Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [],
)


def _reference(x: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    return reference.actnorm(x, log_scale, shift, inverse=inverse)


_run = differentiable(_op, (0, 1, 2), _reference)


def run(impl: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Run the implementation asked for; the arguments are the operator's."""
    x = arguments[0]
    implementation = _op.choose(impl, x.device, x.dtype)
    if implementation == "reference":
        return _reference(*arguments)

    return _run(implementation, *arguments)
