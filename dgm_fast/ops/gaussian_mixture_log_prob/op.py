"""Torch operators of `gaussian_mixture_log_prob`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.gaussian_mixture_log_prob import reference

# z (B, D), means and log_vars (K, D), log_weights (K,), of one dtype and any strides.
_ARGUMENTS = "Tensor z, Tensor means, Tensor log_vars, Tensor log_weights"


def _fake_forward(z: Tensor, *parameters: Tensor) -> Tensor:
    return z.new_empty(z.shape[0], dtype=torch.float32)


def _fake_backward(grad: Tensor | None, *arguments_and_needs: Any) -> tuple[Tensor, ...]:
    *arguments, needs = arguments_and_needs
    return tuple(
        each.new_empty(each.shape if need else (0, *each.shape[1:]))
        for each, need in zip(arguments, needs, strict=True)
    )


_op = Op(
    "gaussian_mixture_log_prob",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> Tensor", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad, {_ARGUMENTS}, bool[4] needs) -> (Tensor, Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton(
            "dgm_fast.ops.gaussian_mixture_log_prob.kernels",
            torch.float32,
            torch.bfloat16,
            torch.float16,
        ),
    ],
)

_run = differentiable(_op, range(4), reference.gaussian_mixture_log_prob)


def run(impl: str, z: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor) -> Tensor:
    """Run the implementation asked for; arguments of several dtypes are widened to the widest."""
    dtype = z.dtype
    for each in (means, log_vars, log_weights):
        dtype = torch.promote_types(dtype, each.dtype)

    chosen = _op.choose(impl, z.device, dtype)
    z, means, log_weights = z.to(dtype), means.to(dtype), log_weights.to(dtype)
    log_vars = log_vars.to(dtype).expand_as(means)
    if chosen == "reference":
        return reference.gaussian_mixture_log_prob(z, means, log_vars, log_weights)

    return _run(chosen, z, means, log_vars, log_weights)
