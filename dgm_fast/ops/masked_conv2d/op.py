"""Torch operators of `masked_conv2d` and its autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import reference_gradients
from dgm_fast._core.implementation import cpp, cuda, hopper, requested, triton
from dgm_fast._core.layouts import is_channels_last
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.masked_conv2d import reference
from dgm_fast.ops.masked_conv2d.crossover import hopper_is_faster, reference_is_faster

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
        hopper("dgm_fast.ops.masked_conv2d.hopper", torch.bfloat16, torch.float16),
    ],
)

# What the launchers for Hopper call: rows of pixels, a weight, and how to go over them.
_live_taps = Op(
    "live_taps",
    {
        "product": Direction(
            "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor(a!) y,"
            " Tensor(b!)? kept, int[] grid, int[] layer, int[] plan, int[] columns, int[] taps)"
            " -> ()",
            lambda *_: None,
        ),
        "gradient": Direction(
            "(Tensor grad, Tensor x, Tensor(a!) pieces, int[] grid, int[] plan,"
            " int[] togethers, int[] taps) -> ()",
            lambda *_: None,
        ),
    },
    [cuda(torch.bfloat16, torch.float16)],
)

multiply_live_taps = _live_taps.kernels["product", "cuda"]
add_gradient_of_live_taps = _live_taps.kernels["gradient", "cuda"]


def choose(impl: str, x: Tensor, weight: Tensor, gated: bool) -> str:
    """Return the implementation to run; `auto` follows the crossovers in this op's README."""
    wanted = requested(impl)
    if wanted == "auto" and reference_is_faster(x, weight, gated):
        return "reference"

    hopper = _op.implementations["cuda"]
    if wanted == "auto" and hopper.unavailable_reason(x.device, x.dtype) is None:
        return "cuda" if hopper_is_faster(x, weight) else "triton"

    return _op.choose(wanted, x.device, x.dtype)


def apply(implementation: str, x: Tensor, *arguments: Any) -> Tensor:
    """Run a kernel differentiably; the arguments are the operator's, up to `gated`."""
    # What torch's convolution returns has the layout of its input, too.
    arguments = (x, *arguments, is_channels_last(x))
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _Transformable.apply(implementation, *arguments)[0]

    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments[:4]):
        return _MaskedConv2d.apply(implementation, *arguments)

    return _forward(implementation, arguments, keep=False)[0]


def _forward(
    implementation: str, arguments: Sequence[Any], keep: bool = True
) -> tuple[Tensor, Tensor]:
    *others, gated, last = arguments
    return _op.kernels["forward", implementation](*others, gated, gated and keep, last)


class _MaskedConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, implementation: str, *arguments: Any) -> Tensor:
        y, kept = _forward(implementation, arguments)
        _save(ctx, implementation, arguments, kept)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, grad_y), *_NO_GRADIENTS


class _Transformable(torch.autograd.Function):
    """The same for `torch.func`, whose form of Function costs 40 us more a call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(implementation: str, *arguments: Any) -> tuple[Tensor, Tensor]:
        return _forward(implementation, arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, inputs[0], inputs[1:], output[1])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, grad_y), *_NO_GRADIENTS


# Of the constants: four of the mask, the gate and the layout.
_NO_GRADIENTS = (None,) * 6


def _save(ctx: Any, implementation: str, arguments: Sequence[Any], kept: Tensor) -> None:
    *tensors, ctx.groups, ctx.strict, ctx.down, ctx.across, ctx.gated, ctx.last = arguments
    # A sum's gradient needs neither of what only adds to it; they wait for second derivatives.
    ctx.save_for_backward(*tensors, kept if ctx.gated else None)
    ctx.implementation = implementation


def _gradients(ctx: Any, grad_y: Tensor) -> Sequence[Tensor | None]:
    *tensors, kept = ctx.saved_tensors
    needs = ctx.needs_input_grad[1:5]
    mask = (ctx.groups, ctx.strict, ctx.down, ctx.across)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # Only create_graph=True gets here with grad enabled: the caller wants the second
        # derivative, and the reference's graph has it.
        arguments = (*tensors, *mask, ctx.gated)
        return reference_gradients(_reference, arguments, range(4), needs, (grad_y,))

    x, weight, *_ = tensors
    run = _op.kernels["backward", ctx.implementation]
    found = run(grad_y, x, weight, kept, *mask, ctx.last, list(needs[:3]))
    grads = (*found[:3], found[3] if ctx.gated else grad_y)
    return [g if need else None for g, need in zip(grads, needs, strict=True)]


def _reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    groups: int,
    strict: bool,
    dilation_h: int,
    dilation_w: int,
    gated: bool,
) -> Tensor:
    return reference.masked_conv2d(
        x,
        weight,
        bias,
        mask_type="A" if strict else "B",
        channel_groups=groups,
        dilation=(dilation_h, dilation_w),
        residual=residual,
        gated=gated,
    )
