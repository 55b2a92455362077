"""Torch operators of activation normalization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.actnorm import reference

# x is (B, C, P).
_ARGUMENTS = "Tensor x, Tensor log_scale, Tensor shift, bool inverse"


def empty_like(x: Tensor) -> Tensor:
    """Return an empty tensor for a result (B, C, P): channels last where x has them last."""
    if x.shape[1] > 1 and x.shape[2] > 1 and x.stride(1) == 1:
        return x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)

    return x.new_empty(x.shape)


def _fake_forward(
    x: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    return empty_like(x), x.new_empty(x.shape[:1], dtype=torch.float32)


def _fake_backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    inverse: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    grad_x = empty_like(x) if needs[0] else x.new_empty(0)
    return grad_x, *(shift.new_empty(shift.shape if need else 0) for need in needs[1:])


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
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton("dgm_fast.ops.actnorm.kernels", torch.float32, torch.bfloat16, torch.float16),
    ],
)


def _reference(x: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    return reference.actnorm(x, log_scale, shift, inverse=inverse)


_run = differentiable(_op, (0, 1, 2), _reference)


def run(
    impl: str, x: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Run the implementation asked for on x (B, C, *)."""
    implementation = _op.choose(impl, x.device, x.dtype)
    if implementation == "reference":
        return _reference(x, log_scale, shift, inverse)

    # A view of images that have their channels last, too.
    pixels = x if x.ndim == 3 else x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    y, log_det = _run(implementation, pixels, log_scale, shift, inverse)
    return y.view(x.shape), log_det
