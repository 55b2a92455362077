"""Triton's `wavenet_layer`: forward in one kernel, backward as sums over taps.

Everything it makes has the channels of a time side by side, so that the next layer reads it as it
lies.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgm_fast._core.triton_taps import launch
from dgm_fast.ops.wavenet_layer import triton_layer
from dgm_fast.ops.wavenet_layer.op import signals


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    condition: Tensor | None,
    dilation: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, z and, where asked, what the gate was given."""
    (batch, channels, length), outs = x.shape, weight.shape[0]
    y, z = signals(x, batch, channels, length), signals(x, batch, outs // 2, length)
    kept = signals(x, batch if keep else 0, outs, length)
    if condition is not None and condition.shape[2] == length > 1:
        rows = launch.rows_of(_image(condition))
        condition = rows.view(batch, length, outs).transpose(1, 2)
    elif condition is not None:
        condition = condition.expand(batch, outs, length)

    triton_layer.run(
        _image(x),
        weight,
        _contiguous(bias),
        residual_weight,
        _contiguous(residual_bias),
        _image(condition),
        _image(y),
        _image(z),
        _image(kept) if keep else None,
        dilation,
    )
    return y, z, kept


def backward(
    grad_y: Tensor | None,
    grad_z: Tensor | None,
    x: Tensor,
    weight: Tensor,
    residual_weight: Tensor,
    z: Tensor,
    kept: Tensor,
    dilation: int,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of x, the weights and biases, or empty ones, and of the gate's input."""
    grad_bias = weight.new_empty(weight.shape[0] if needs[2] else 0)
    of_gate = grad_bias if needs[2] else None
    grad_h, rows_y = _gate_backward(grad_y, grad_z, x, residual_weight, kept, of_gate)
    layer, grid = launch.causal(weight, parts=2), launch.grid_of(_image(x), (1, dilation))
    rows_h = launch.rows_of(_image(grad_h))

    grad_x = signals(x, x.shape[0] if needs[0] else 0, *x.shape[1:])
    if needs[0]:
        added = _image(grad_y)
        launch.product(layer, rows_h, grid, weight, _image(grad_x), residual=added, after=True)

    grad_weight = weight.new_empty(weight.shape[0] if needs[1] else 0, *weight.shape[1:])
    if needs[1]:
        launch.grad_weight(layer, rows_h, launch.rows_of(_image(x)), grid, grad_weight)

    outs = residual_weight.shape[0] if needs[3] else 0
    grad_residual_weight = weight.new_zeros(outs, *residual_weight.shape[1:])
    if needs[3] and rows_y is not None:
        late, rows_z = launch.causal(residual_weight), launch.rows_of(_image(z))
        launch.grad_weight(late, rows_y, rows_z, grid, grad_residual_weight)

    grad_residual_bias = weight.new_zeros(x.shape[1] if needs[4] else 0)
    if needs[4] and grad_y is not None:
        launch.sum_pixels(_image(grad_y), grad_residual_bias)

    return grad_x, grad_weight, grad_bias, grad_residual_weight, grad_residual_bias, grad_h


def _gate_backward(
    grad_y: Tensor | None,
    grad_z: Tensor | None,
    x: Tensor,
    residual_weight: Tensor,
    kept: Tensor,
    grad_bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of what the gate was given, and that of y as rows; write the bias's."""
    batch, outs, length = kept.shape
    grad_h, rows_y = signals(x, batch, outs, length), None
    above = _image(grad_z)
    if grad_y is not None:
        added, above = above, _image(signals(x, batch, outs // 2, length))
        late, rows_y = launch.causal(residual_weight), launch.rows_of(_image(grad_y))
        grid = launch.grid_of(above)
        launch.product(late, rows_y, grid, residual_weight, above, residual=added, after=True)

    launch.gate_backward(above, _image(kept), _image(grad_h), grad_bias)
    return grad_h, rows_y


def _image(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.unsqueeze(2)


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


# The backward's are those of every sum over taps, which `masked_conv2d` lists.
AOT_KERNELS = tuple(triton_layer.aot_kernels())
