"""Torch operator of the statistics of channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.actnorm_statistics import reference


def _fake_forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(
        x.new_empty(shape, dtype=torch.float32) for shape in (x.shape[1:2], x.shape[1:2], ())
    )


_op = Op(
    "actnorm_statistics",
    # x is (B, C, P).
    {"forward": Direction("(Tensor x) -> (Tensor, Tensor, Tensor)", _fake_forward)},
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton(
            "dgm_fast.ops.actnorm_statistics.kernels", torch.float32, torch.bfloat16, torch.float16
        ),
    ],
)


def run(impl: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run the implementation asked for on x (B, C, *)."""
    implementation = _op.choose(impl, x.device, x.dtype)
    if implementation == "reference":
        return reference.actnorm_statistics(x)

    pixels = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return _op.kernels["forward", implementation](pixels)
