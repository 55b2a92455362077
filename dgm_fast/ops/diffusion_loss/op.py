"""Torch operators of `diffusion_loss` and its autograd, on one row a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.rows import as_rows
from dgm_fast._core.schedule import TARGETS
from dgm_fast.ops.diffusion_loss import reference

# Kernels know a target by its place in TARGETS.
_ARGUMENTS = (
    "Tensor prediction, Tensor x0, Tensor? noise, Tensor? seed, Tensor t, Tensor alpha,"
    " Tensor sigma, Tensor? weight, int target, SymInt sample_offset, int stream"
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _fake_forward(prediction: Tensor, *arguments: Any) -> Tensor:
    return prediction.new_empty(prediction.shape[:1], dtype=torch.float32)


def _fake_backward(
    grad_loss: Tensor | None, prediction: Tensor, x0: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    needs = arguments[-1]
    return tuple(
        like.new_empty(like.shape if need else (0, 0))
        for like, need in zip((prediction, x0), needs, strict=True)
    )


_op = Op(
    "diffusion_loss",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> Tensor", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_loss, {_ARGUMENTS}, bool[2] needs) -> (Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.diffusion_loss.kernels", *_DTYPES)],
)


def _reference(*arguments: Any) -> Tensor:
    *tensors, target, sample_offset, stream = arguments
    return reference.diffusion_loss(*tensors, TARGETS[target], sample_offset, stream)


_run = differentiable(_op, (0, 1), _reference)


def run(
    impl: str,
    prediction: Tensor,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weight: Tensor | None,
    target: str,
    sample_offset: int,
    stream: int,
) -> Tensor:
    """Compute each sample's loss with the implementation chosen."""
    dtype = x0.dtype if x0.dtype is torch.float64 else prediction.dtype
    chosen = _op.choose(impl, x0.device, dtype)
    tables = (t, alpha, sigma, weight)
    if chosen == "reference":
        where = (target, sample_offset, stream)
        return reference.diffusion_loss(prediction, x0, noise, seed, *tables, *where)

    if noise is not None:
        noise = as_rows(noise.float() if noise.dtype is torch.float64 else noise)
    # Noise holds nothing of x0.
    clean = as_rows(x0.detach() if target == "noise" else x0)
    where = (TARGETS.index(target), sample_offset, stream)
    return _run(chosen, as_rows(prediction), clean, noise, seed, *tables, *where)
