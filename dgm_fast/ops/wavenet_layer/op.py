"""Torch operators of `wavenet_layer` and its autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import reference_gradients
from dgm_fast._core.implementation import cpp, interpreting, requested, triton
from dgm_fast._core.layouts import empty_signals
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.precision import convolved_without_tensor_cores
from dgm_fast.ops.wavenet_layer import reference


def signals(x: Tensor, batch: int, channels: int, length: int) -> Tensor:
    """Return memory for a result, as the implementation for x's device lays it."""
    return empty_signals(x, batch, channels, length, last=x.is_cuda or interpreting())


def _fake_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    condition: Tensor | None,
    dilation: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, length = x.shape
    outs = weight.shape[0]
    return (
        signals(x, *x.shape),
        signals(x, batch, outs // 2, length),
        signals(x, batch if keep else 0, outs, length),
    )


def _fake_backward(
    grad_y: Tensor | None,
    grad_z: Tensor | None,
    x: Tensor,
    weight: Tensor,
    residual_weight: Tensor,
    z: Tensor,
    kept: Tensor,
    dilation: int,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    (batch, channels, length), (outs, _, kernel) = x.shape, weight.shape
    return (
        signals(x, batch if needs[0] else 0, channels, length),
        x.new_empty(outs if needs[1] else 0, channels, kernel),
        x.new_empty(outs if needs[2] else 0),
        x.new_empty(channels if needs[3] else 0, outs // 2, 1),
        x.new_empty(channels if needs[4] else 0),
        signals(x, batch, outs, length),
    )


_op = Op(
    "wavenet_layer",
    {
        "forward": Direction(
            "(Tensor x, Tensor weight, Tensor? bias, Tensor residual_weight, Tensor? residual_bias,"
            " Tensor? condition, int dilation, bool keep) -> (Tensor, Tensor, Tensor)",
            _fake_forward,
        ),
        "backward": Direction(
            "(Tensor? grad_y, Tensor? grad_z, Tensor x, Tensor weight, Tensor residual_weight,"
            " Tensor z, Tensor kept, int dilation, bool[5] needs)"
            " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton("dgm_fast.ops.wavenet_layer.kernels", torch.float32, torch.bfloat16, torch.float16),
    ],
)


def choose(impl: str, x: Tensor) -> str:
    """Return the implementation to run."""
    wanted = requested(impl)
    if wanted == "auto" and convolved_without_tensor_cores(x):
        return "reference"

    return _op.choose(wanted, x.device, x.dtype)


def apply(implementation: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Run a kernel differentiably; the arguments are the operator's, less `keep`."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _Transformable.apply(implementation, *arguments)[:2]

    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments[:6]):
        return _WaveNetLayer.apply(implementation, *arguments)

    return _op.kernels["forward", implementation](*arguments, False)[:2]


class _WaveNetLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, implementation: str, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, z, kept = _op.kernels["forward", implementation](*arguments, True)
        _save(ctx, implementation, arguments, z, kept)
        return y, z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, grads), None


class _Transformable(torch.autograd.Function):
    """The same for `torch.func`, whose form of Function costs 40 us more a call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(implementation: str, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _op.kernels["forward", implementation](*arguments, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        implementation, *arguments = inputs
        ctx.mark_non_differentiable(output[2])
        _save(ctx, implementation, arguments, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, grads[:2]), None


def _save(ctx: Any, implementation: str, arguments: Any, z: Tensor, kept: Tensor) -> None:
    ctx.implementation, ctx.dilation = implementation, arguments[6]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*arguments[:6], z, kept)


def _gradients(ctx: Any, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
    x, weight, bias, residual_weight, residual_bias, condition, z, kept = ctx.saved_tensors
    needs = ctx.needs_input_grad[1:7]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # Only create_graph=True gets here with grad enabled: the caller wants the second
        # derivative, and the reference's graph has it.
        arguments = (x, weight, bias, residual_weight, residual_bias, condition, ctx.dilation)
        return reference_gradients(_reference, arguments, range(6), needs, grads)

    run = _op.kernels["backward", ctx.implementation]
    found = run(*grads, x, weight, residual_weight, z, kept, ctx.dilation, list(needs[:5]))
    grad_h = found[5]
    if needs[5] and condition.shape[2] != grad_h.shape[2]:
        grad_h = grad_h.sum(2, keepdim=True, dtype=torch.float32).to(grad_h.dtype)

    found = (*found[:5], grad_h)
    return tuple(grad if need else None for grad, need in zip(found, needs, strict=True))


def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, condition, dilation = arguments
    return reference.wavenet_layer(*tensors, condition=condition, dilation=dilation)
