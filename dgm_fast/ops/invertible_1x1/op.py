"""Torch operators of `invertible_1x1`.

They take a weight by its factors, or in full: then `matrix` is all of it, and the sum of `log_diag`
its log-determinant, which the caller knows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.checks import autocast_dtype
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.invertible_1x1 import reference
from dgm_fast.ops.invertible_1x1.factors import PLU

# x (B, C, P) of any strides; the parameters are float32. `matrix` is `lower` where there are an
# upper triangle, signs and a permutation, and the full weight where there are none.
_ARGUMENTS = (
    "Tensor x, Tensor matrix, Tensor log_diag, Tensor? upper, Tensor? sign, Tensor? permutation,"
    " Tensor? log_scale, Tensor? shift, bool inverse"
)
_DIFFERENTIABLE = (0, 1, 2, 3, 6, 7)


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=torch.float32)


def _fake_backward(
    grad_y: Tensor | None, grad_log_det: Tensor | None, *arguments_and_needs: Any
) -> tuple[Tensor, ...]:
    *arguments, needs = arguments_and_needs
    leaves = [arguments[place] for place in _DIFFERENTIABLE]
    x = leaves[0]
    return tuple(
        leaf.new_empty(leaf.shape) if need else x.new_empty(0)
        for leaf, need in zip(leaves, needs, strict=True)
    )


_op = Op(
    "invertible_1x1",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_y, Tensor? grad_log_det, {_ARGUMENTS}, bool[6] needs)"
            " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton("dgm_fast.ops.invertible_1x1.kernels", torch.float32, torch.bfloat16, torch.float16),
    ],
)


def _reference(
    x: Tensor,
    matrix: Tensor,
    log_diag: Tensor,
    upper: Tensor | None,
    sign: Tensor | None,
    permutation: Tensor | None,
    log_scale: Tensor | None,
    shift: Tensor | None,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    if permutation is None:
        log_abs_det = log_diag.sum()
        return reference.invertible_1x1(x, matrix, log_scale, shift, log_abs_det, inverse)

    factors = PLU(permutation, matrix, upper, log_diag, sign)
    return reference.invertible_1x1(x, factors, log_scale, shift, None, inverse)


_run = differentiable(_op, _DIFFERENTIABLE, _reference)


def choose(impl: str, x: Tensor) -> str:
    """Return the implementation to run."""
    return _op.choose(impl, x.device, x.dtype)


def run(
    implementation: str,
    x: Tensor,
    weight: Tensor | PLU,
    log_scale: Tensor | None,
    shift: Tensor | None,
    log_abs_det: Tensor | None,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Run a kernel on x of any spatial dims, differentiably."""
    if not isinstance(weight, PLU) and inverse:
        weight = PLU.from_weight(weight.float())

    if isinstance(weight, PLU):
        factors = weight.to(torch.float32)
        given = (factors.lower, factors.log_diag, factors.upper, factors.sign, factors.permutation)
    else:
        log_abs_det = reference.log_abs_det_of(weight) if log_abs_det is None else log_abs_det
        given = (weight.float(), log_abs_det.float().reshape(1), None, None, None)

    pixels = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    y, log_det = _run(
        implementation,
        pixels.to(autocast_dtype(x.device, x.dtype)),
        *given,
        None if log_scale is None else log_scale.float(),
        None if shift is None else shift.float(),
        inverse,
    )
    return y.view(x.shape), log_det
