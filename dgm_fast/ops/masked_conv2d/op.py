"""Torch operators of `masked_conv2d` and its autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, requested, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.masked_conv2d import reference
from dgm_fast.ops.masked_conv2d.crossover import reference_is_faster

_CONSTANTS = "int groups, bool strict, int dilation_h, int dilation_w"


def images(x: Tensor, batch: int, channels: int, channels_last: bool) -> Tensor:
    """Return memory for images of the size of x's."""
    height, width = x.shape[2:]
    if channels_last:
        return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)

    return x.new_empty(batch, channels, height, width)


def _fake_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    groups: int,
    strict: bool,
    dilation_h: int,
    dilation_w: int,
    gated: bool,
    keep: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    out = weight.shape[0]
    y = images(x, x.shape[0], out // 2 if gated else out, channels_last)
    return y, images(x, x.shape[0] if keep else 0, out, channels_last)


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    kept: Tensor | None,
    groups: int,
    strict: bool,
    dilation_h: int,
    dilation_w: int,
    channels_last: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, ins, height, width = weight.shape
    return (
        images(x, x.shape[0] if needs[0] else 0, ins, channels_last),
        weight.new_empty(out if needs[1] else 0, ins, height, width),
        weight.new_empty(out if needs[2] else 0),
        images(x, 0 if kept is None else x.shape[0], out, channels_last),
    )


_op = Op(
    "masked_conv2d",
    {
        "forward": Direction(
            f"(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, {_CONSTANTS}, bool gated,"
            " bool keep, bool channels_last) -> (Tensor, Tensor)",
            _fake_forward,
        ),
        "backward": Direction(
            f"(Tensor grad_y, Tensor x, Tensor weight, Tensor? kept, {_CONSTANTS},"
            " bool channels_last, bool[3] needs) -> (Tensor, Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton("dgm_fast.ops.masked_conv2d.kernels", torch.float32, torch.bfloat16, torch.float16),
    ],
)


def choose(impl: str, x: Tensor) -> str:
    """Return the implementation to run; `auto` follows the crossovers in this op's README."""
    wanted = requested(impl)
    if wanted == "auto" and reference_is_faster(x):
        return "reference"

    return _op.choose(wanted, x.device, x.dtype)


def apply(
    implementation: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    mask_type: str,
    channel_groups: int,
    dilation: tuple[int, int],
    gated: bool,
) -> Tensor:
    """Run a kernel differentiably."""
    constants = (channel_groups, mask_type == "A", *dilation)
    # What torch's convolution returns has the layout of its input, too.
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    tensors = (x, weight, bias, residual)

    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _Transformable.apply(*tensors, constants, gated, last, implementation)[0]

    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _MaskedConv2d.apply(*tensors, constants, gated, last, implementation)

    return _op.kernels["forward", implementation](*tensors, *constants, gated, False, last)[0]


class _MaskedConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, residual, constants, gated, last, implementation):  # noqa: ANN001, ANN205
        run = _op.kernels["forward", implementation]
        y, kept = run(x, weight, bias, residual, *constants, gated, gated, last)
        _save(ctx, x, weight, bias, residual, kept, constants, gated, last, implementation)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, grad_y), None, None, None, None


class _Transformable(torch.autograd.Function):
    """The same for `torch.func`, whose form of Function costs 40 us more a call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, residual, constants, gated, last, implementation):  # noqa: ANN001, ANN205
        run = _op.kernels["forward", implementation]
        return run(x, weight, bias, residual, *constants, gated, gated, last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, constants, gated, last, implementation = inputs
        ctx.mark_non_differentiable(output[1])
        _save(ctx, *tensors, output[1], constants, gated, last, implementation)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, grad_y), None, None, None, None


def _save(
    ctx: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kept: Tensor,
    constants: tuple[Any, ...],
    gated: bool,
    last: bool,
    implementation: str,
) -> None:
    # A sum's gradient needs neither of what only adds to it; they wait for second derivatives.
    ctx.save_for_backward(x, weight, bias, residual, kept if gated else None)
    ctx.constants, ctx.gated, ctx.last = constants, gated, last
    ctx.implementation = implementation


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, residual, kept = ctx.saved_tensors
    needs = ctx.needs_input_grad[:4]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # Only create_graph=True gets here with grad enabled: the caller wants the second
        # derivative, and the reference's graph has it.
        return _differentiable(ctx, grad_y, (x, weight, bias, residual), needs)

    run = _op.kernels["backward", ctx.implementation]
    *grads, grad = run(grad_y, x, weight, kept, *ctx.constants, ctx.last, list(needs[:3]))
    grads.append(grad if ctx.gated else grad_y)
    return tuple(g if need else None for g, need in zip(grads, needs, strict=True))


def _differentiable(
    ctx: Any, grad_y: Tensor, tensors: tuple[Tensor | None, ...], needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    groups, strict, *dilation = ctx.constants
    # Views are leaves of their own: one tensor may be two arguments, or computed from another.
    x, weight, bias, residual = (None if t is None else t.view_as(t) for t in tensors)
    y = reference.masked_conv2d(
        x,
        weight,
        bias,
        mask_type="A" if strict else "B",
        channel_groups=groups,
        dilation=tuple(dilation),
        residual=residual,
        gated=ctx.gated,
    )
    leaves = [t for t, need in zip((x, weight, bias, residual), needs, strict=True) if need]
    found = iter(torch.autograd.grad(y, leaves, grad_y, create_graph=True))
    return tuple(next(found) if need else None for need in needs)
