"""Torch operators of `masked_linear` and its autograd."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, requested, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.masked_linear.crossover import reference_is_faster
from dgm_fast.ops.masked_linear.structure import MaskStructure

# `mask` is None when the bounds say everything; the orders are None when already sorted.
_TABLES = (
    "Tensor row_bound, Tensor column_start, Tensor? row_order, Tensor? column_order, Tensor? mask"
)


def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor | None, *tables: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _fake_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, *tables_and_needs: Any
) -> tuple[Tensor, Tensor, Tensor]:
    needs = tables_and_needs[-1]
    shapes = (x.shape, weight.shape, weight.shape[:1])
    return tuple(x.new_empty(s if need else (0,)) for s, need in zip(shapes, needs, strict=True))


_op = Op(
    "masked_linear",
    {
        "forward": Direction(
            f"(Tensor x, Tensor weight, Tensor? bias, {_TABLES}) -> Tensor", _fake_forward
        ),
        "backward": Direction(
            f"(Tensor grad_y, Tensor x, Tensor weight, {_TABLES}, bool[3] needs)"
            " -> (Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton("dgm_fast.ops.masked_linear.kernels", torch.float32, torch.bfloat16, torch.float16),
    ],
)


def choose(impl: str, x: Tensor, weight: Tensor, mask: MaskStructure) -> str:
    """Return the implementation to run; `auto` follows the crossovers in this op's README."""
    wanted = requested(impl)
    if wanted == "auto" and reference_is_faster(x, weight, mask):
        return "reference"

    return _op.choose(wanted, x.device, x.dtype)


def apply(
    implementation: str, x: Tensor, weight: Tensor, bias: Tensor | None, mask: MaskStructure
) -> Tensor:
    """Run a kernel on x of any leading shape, differentiably."""
    # Not -1: a reshape cannot infer it where there are no columns.
    rows = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = _run(implementation, rows, weight, bias, mask)
    return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[-1])


def _run(
    implementation: str, x: Tensor, weight: Tensor, bias: Tensor | None, mask: MaskStructure
) -> Tensor:
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _Transformable.apply(x, weight, bias, mask, implementation)

    if _needs_grad(x, weight, bias):
        return _MaskedLinear.apply(x, weight, bias, mask, implementation)

    return _op.kernels["forward", implementation](x, weight, bias, *mask.tables)


def _needs_grad(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )


class _MaskedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: MaskStructure,
        implementation: str,
    ) -> Tensor:
        ctx.mask, ctx.implementation = mask, implementation
        ctx.save_for_backward(x, weight)
        return _op.kernels["forward", implementation](x, weight, bias, *mask.tables)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Only create_graph=True gets here with grad enabled: the caller wants the second
            # derivative, and the reference's graph has it.
            return *_differentiable_grads(grad_y, x, weight, ctx.mask, needs), None, None

        kernel = _op.kernels["backward", ctx.implementation]
        grads = kernel(grad_y, x, weight, *ctx.mask.tables, needs)
        return *(g if need else None for g, need in zip(grads, needs, strict=True)), None, None


class _Transformable(torch.autograd.Function):
    """The same for `torch.func`, whose form of Function costs 40 us more a call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, mask: MaskStructure, implementation: str
    ) -> Tensor:
        return _op.kernels["forward", implementation](x, weight, bias, *mask.tables)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.mask, ctx.implementation = inputs
        ctx.save_for_backward(x, weight)

    backward = _MaskedLinear.backward


def _differentiable_grads(
    grad_y: Tensor, x: Tensor, weight: Tensor, mask: MaskStructure, needs: list[bool]
) -> tuple[Tensor | None, ...]:
    dense = mask.dense(weight.dtype)
    return (
        grad_y @ (weight * dense) if needs[0] else None,
        grad_y.t() @ x * dense if needs[1] else None,
        grad_y.sum(0) if needs[2] else None,
    )
