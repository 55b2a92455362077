"""Triton's `masked_conv2d`: sums over the taps that the mask leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dgm_fast._core.triton_taps import launch
from dgm_fast._core.triton_taps.aot import aot_kernels
from dgm_fast.ops.masked_conv2d.op import images


def forward(
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
    *,
    product: Callable[..., None] = launch.product,
) -> tuple[Tensor, Tensor]:
    """Return y and, where asked, what its gate was given; `product` writes the sums over taps."""
    layer = _layer(weight, groups, strict, gated)
    y = images(x, x.shape[0], layer.outs, channels_last)
    kept = images(x, x.shape[0] if keep else 0, weight.shape[0], channels_last)
    product(
        layer,
        launch.rows_of(x),
        launch.grid_of(y, (dilation_h, dilation_w)),
        weight,
        y,
        bias=None if bias is None else bias.contiguous(),
        residual=residual,
        kept=kept if keep else None,
    )
    return y, kept


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    kept: Tensor | None,
    groups: int,
    strict: bool,
    dilation_h: int,
    dilation_w: int,
    channels_last: bool,
    needs: Sequence[bool],
    *,
    product: Callable[..., None] = launch.product,
    of_weight: Callable[..., None] = launch.grad_weight,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight, bias and what the gate was given, or empty ones."""
    layer = _layer(weight, groups, strict, kept is not None)
    grad_x = images(x, x.shape[0] if needs[0] else 0, layer.ins, channels_last)
    grad_weight = weight.new_empty(0, *weight.shape[1:])
    grad_bias = weight.new_empty(weight.shape[0] if needs[2] else 0)
    of_gate = images(x, 0 if kept is None else x.shape[0], weight.shape[0], channels_last)
    if kept is not None:
        launch.gate_backward(grad_y, kept, of_gate, grad_bias if needs[2] else None)
    elif needs[2]:
        launch.sum_pixels(grad_y, grad_bias)

    grad = grad_y if kept is None else of_gate
    grid = launch.grid_of(grad, (dilation_h, dilation_w))
    if needs[0] or needs[1]:
        grad = launch.rows_of(grad)
    if needs[0]:
        product(layer, grad, grid, weight, grad_x, after=True)
    if needs[1]:
        grad_weight = weight.new_empty(weight.shape)
        of_weight(layer, grad, launch.rows_of(x), grid, grad_weight)

    return grad_x, grad_weight, grad_bias, of_gate


def _layer(weight: Tensor, groups: int, strict: bool, gated: bool) -> launch.Layer:
    parts = 2 if gated else 1
    outs, ins, height, width = weight.shape
    return launch.Layer(outs // parts, ins, parts, (height, width), height * width, groups, strict)


AOT_KERNELS = tuple(aot_kernels())
