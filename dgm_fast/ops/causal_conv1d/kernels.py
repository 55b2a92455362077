"""Triton's `causal_conv1d`: dense as sums over taps, depthwise as rows, shifted and weighted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgm_fast._core.triton_taps import launch
from dgm_fast.ops.causal_conv1d import triton_depthwise as depthwise
from dgm_fast.ops.causal_conv1d.op import signals


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, lead: int) -> Tensor:
    """Return y."""
    y = signals(x, x.shape[0], weight.shape[0], x.shape[2] - lead)
    bias = None if bias is None else bias.contiguous()
    if weight.shape[1] < x.shape[1]:
        depthwise.convolve(x, weight, bias, y, dilation, lead)
        return y

    grid = launch.grid_of(y.unsqueeze(2), (1, dilation), lead)
    rows = launch.rows_of(x.unsqueeze(2))
    launch.product(launch.causal(weight), rows, grid, weight, y.unsqueeze(2), bias=bias)
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int,
    lead: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, or empty ones."""
    grad_x = signals(x, x.shape[0] if needs[0] else 0, *x.shape[1:])
    grad_weight = weight.new_empty(weight.shape[0] if needs[1] else 0, *weight.shape[1:])
    grad_bias = weight.new_empty(weight.shape[0] if needs[2] else 0)
    if needs[2]:
        launch.sum_pixels(grad_y.unsqueeze(2), grad_bias)

    if weight.shape[1] < x.shape[1]:
        if needs[0]:
            depthwise.convolve(grad_y, weight, None, grad_x, dilation, lead, after=True)
        if needs[1]:
            depthwise.grad_weight(grad_y, x, grad_weight, dilation, lead)
        return grad_x, grad_weight, grad_bias

    layer, grad = launch.causal(weight), launch.rows_of(grad_y.unsqueeze(2))
    if needs[0]:
        grid = launch.grid_of(grad_x.unsqueeze(2), (1, dilation), -lead)
        launch.product(layer, grad, grid, weight, grad_x.unsqueeze(2), after=True)
    if needs[1]:
        grid = launch.grid_of(grad_y.unsqueeze(2), (1, dilation), lead)
        rows = launch.rows_of(x.unsqueeze(2))
        launch.grad_weight(layer, grad, rows, grid, grad_weight)

    return grad_x, grad_weight, grad_bias


AOT_KERNELS = tuple(depthwise.aot_kernels())
