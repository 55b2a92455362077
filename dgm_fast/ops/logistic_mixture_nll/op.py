"""Torch operators of `logistic_mixture_nll`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.logistic_mixture_nll import reference

# x (B, C, P) in float32 and params (B, N, P), of any strides.
_ARGUMENTS = "Tensor x, Tensor params"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _fake_forward(x: Tensor, params: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.float32)


def _fake_backward(grad: Tensor | None, x: Tensor, params: Tensor, needs: Any) -> Tensor:
    return params.new_empty(params.shape)


_op = Op(
    "logistic_mixture_nll",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> Tensor", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad, {_ARGUMENTS}, bool[1] needs) -> Tensor", _fake_backward
        ),
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.logistic_mixture_nll.kernels", *_DTYPES)],
)

_run = differentiable(_op, (1,), reference.logistic_mixture_nll)


def run(impl: str, x: Tensor, params: Tensor) -> Tensor:
    """Run the implementation asked for; pixels of any shape become one dim."""
    chosen = _op.choose(impl, params.device, params.dtype)
    if chosen == "reference":
        return reference.logistic_mixture_nll(x, params)

    x, params = (each.flatten(2) if each.ndim > 2 else each.unsqueeze(2) for each in (x, params))
    return _run(chosen, x.float(), params)
