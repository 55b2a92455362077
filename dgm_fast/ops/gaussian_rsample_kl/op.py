"""Torch operators of `gaussian_rsample_kl` and its autograd, on one row a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.gaussian_rsample_kl import reference

# All tensors but the seed (E elements) have one row a sample, (B, E); the prior's may have one for
# all, (1, E). One of noise and seed is None.
_ARGUMENTS = (
    "Tensor mean, Tensor log_var, Tensor? prior_mean, Tensor? prior_log_var, Tensor? noise,"
    " Tensor? seed, SymInt sample_offset, int stream, bool monte_carlo, float free_bits"
)
_DIFFERENTIABLE = 4  # of the arguments, the first ones


def _fake_forward(mean: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return mean.new_empty(mean.shape), mean.new_empty(mean.shape[0], dtype=torch.float32)


def _fake_backward(
    grad_z: Tensor | None, grad_kl: Tensor | None, *arguments_and_needs: Any
) -> tuple[Tensor, ...]:
    inputs, needs = arguments_and_needs[:_DIFFERENTIABLE], arguments_and_needs[-1]
    mean = inputs[0]
    return tuple(
        mean.new_empty(each.shape if need else (0, mean.shape[1]))
        for each, need in zip(inputs, needs, strict=True)
    )


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_op = Op(
    "gaussian_rsample_kl",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_z, Tensor? grad_kl, {_ARGUMENTS}, bool[{_DIFFERENTIABLE}] needs)"
            " -> (Tensor, Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.gaussian_rsample_kl.kernels", *_DTYPES)],
)
_run = differentiable(_op, range(_DIFFERENTIABLE), reference.gaussian_rsample_kl)


def run(impl: str, mean: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Run the implementation chosen for the call on the arguments of the reference."""
    chosen = _op.choose(impl, mean.device, mean.dtype)
    if chosen == "reference":
        return reference.gaussian_rsample_kl(mean, *rest)

    return _run(chosen, mean, *rest)
