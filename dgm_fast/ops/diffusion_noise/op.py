"""Torch operators of `diffusion_noise` and its autograd, on one row a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.rows import as_rows
from dgm_fast._core.schedule import TARGETS
from dgm_fast.ops.diffusion_noise import reference

# Kernels know each by its place; the last asks for x_t alone.
_TARGETS = (*TARGETS, "")

_ARGUMENTS = (
    "Tensor x0, Tensor? noise, Tensor? seed, Tensor t, Tensor alpha, Tensor sigma, int target,"
    " SymInt sample_offset, int stream, ScalarType dtype"
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _fake_forward(x0: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *_, target, _, _, dtype = arguments
    made = x0.shape if _TARGETS[target] else (0,)
    return tuple(x0.new_empty(shape, dtype=dtype) for shape in (x0.shape, made))


def _fake_backward(
    grad_x_t: Tensor | None, grad_target: Tensor | None, x0: Tensor, *arguments: Any
) -> Tensor:
    return x0.new_empty(x0.shape)


_op = Op(
    "diffusion_noise",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_x_t, Tensor? grad_target, {_ARGUMENTS}, bool[1] needs) -> Tensor",
            _fake_backward,
        ),
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.diffusion_noise.kernels", *_DTYPES)],
)


def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, target, sample_offset, stream, dtype = arguments
    how = (_TARGETS[target], sample_offset, stream, dtype)
    return reference.diffusion_noise(*tensors, *how)


_run = differentiable(_op, (0,), _reference)


def run(
    impl: str,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    sample_offset: int,
    stream: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Compute x_t and the target with the implementation chosen."""
    chosen = _op.choose(impl, x0.device, dtype)
    if chosen == "reference":
        return reference.diffusion_noise(
            x0, noise, seed, t, alpha, sigma, target, sample_offset, stream, dtype
        )

    if noise is not None:
        noise = as_rows(noise.float() if noise.dtype is torch.float64 else noise)
    how = (_TARGETS.index(target), sample_offset, stream, dtype)
    x_t, made = _run(chosen, as_rows(x0), noise, seed, t, alpha, sigma, *how)
    return x_t.view(x0.shape), made.view(x0.shape) if target else made
