"""Torch operators of `gated_activation`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, requested, triton
from dgm_fast._core.layouts import is_channels_last
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.rows import as_rows
from dgm_fast.ops.gated_activation import reference


def _fake_forward(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


def _fake_backward(grad_y: Tensor, x: Tensor, needs: list[bool]) -> Tensor:
    return x.new_empty(x.shape)


# On rows: the first half of each is gated by the second.
_op = Op(
    "gated_activation",
    {
        "forward": Direction("(Tensor x) -> Tensor", _fake_forward),
        "backward": Direction("(Tensor grad_y, Tensor x, bool[1] needs) -> Tensor", _fake_backward),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton(
            "dgm_fast.ops.gated_activation.kernels", torch.float32, torch.bfloat16, torch.float16
        ),
    ],
)

_run = differentiable(_op, (0,), reference.gated_activation)


def run(impl: str, x: Tensor) -> Tensor:
    """Run the implementation asked for on samples of any shape."""
    implementation = requested(impl)
    # A call costs 15 us more than the three of torch's own; the table is in this op's README.
    if implementation == "auto" and x.device.type == "cpu" and x.numel() < 2048:
        implementation = "reference"

    implementation = _op.choose(implementation, x.device, x.dtype)
    if implementation == "reference":
        return reference.gated_activation(x)

    if is_channels_last(x):
        # A pixel's channels lie together: each pixel is a row.
        batch, channels, height, width = x.shape
        y = _run(implementation, x.permute(0, 2, 3, 1).reshape(batch * height * width, channels))
        return y.view(batch, height, width, channels // 2).permute(0, 3, 1, 2)

    return _run(implementation, as_rows(x)).view(x.shape[0], x.shape[1] // 2, *x.shape[2:])
