"""Torch operators of `ddpm_step` and `ddim_step` and their autograd, on one row a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.rows import as_rows
from dgm_fast._core.schedule import TARGETS
from dgm_fast.ops.diffusion_step import reference

# Kernels know a target by its place in TARGETS.
_ARGUMENTS = (
    "Tensor x_t, Tensor prediction, Tensor? unconditional, Tensor? noise, Tensor? seed, Tensor t,"
    " Tensor? s, Tensor alpha, Tensor sigma, int target, float eta, bool large, bool recompute,"
    " float clip, float guidance, SymInt sample_offset, int stream"
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _fake_forward(x_t: Tensor, *arguments: Any) -> Tensor:
    return x_t.new_empty(x_t.shape)


def _fake_backward(
    grad_x_s: Tensor | None,
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    *arguments: Any,
) -> tuple[Tensor, ...]:
    needs = arguments[-1]
    each = (x_t, prediction, prediction if unconditional is None else unconditional)
    return tuple(
        like.new_empty(like.shape if need else (0, 0))
        for like, need in zip(each, needs, strict=True)
    )


_op = Op(
    "diffusion_step",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> Tensor", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_x_s, {_ARGUMENTS}, bool[3] needs) -> (Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.diffusion_step.kernels", *_DTYPES)],
)


def _reference(*arguments: Any) -> Tensor:
    *tensors, target, eta, large, recompute, clip, guidance, sample_offset, stream = arguments
    how = (TARGETS[target], eta, large, recompute, clip, guidance, sample_offset, stream)
    return reference.diffusion_step(*tensors, *how)


_run = differentiable(_op, (0, 1, 2), _reference)


def run(
    impl: str,
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    s: Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    *how: float | bool,
) -> Tensor:
    """Compute x_s with the implementation chosen."""
    dtype = torch.promote_types(x_t.dtype, prediction.dtype)
    if unconditional is not None:
        dtype = torch.promote_types(dtype, unconditional.dtype)

    chosen = _op.choose(impl, x_t.device, dtype)
    where = (seed, t, s, alpha, sigma)
    if chosen == "reference":
        tensors = (x_t, prediction, unconditional, noise)
        return reference.diffusion_step(*tensors, *where, target, *how)

    if noise is not None:
        noise = as_rows(noise.float() if noise.dtype is torch.float64 else noise)
    plain = None if unconditional is None else as_rows(unconditional)
    rows = (as_rows(x_t), as_rows(prediction), plain, noise)
    return _run(chosen, *rows, *where, TARGETS.index(target), *how).view(x_t.shape)
