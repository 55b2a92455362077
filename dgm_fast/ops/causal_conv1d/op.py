"""Torch operators of `causal_conv1d`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, interpreting, requested, triton
from dgm_fast._core.layouts import empty_signals, is_channels_last
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.precision import convolved_without_tensor_cores
from dgm_fast.ops.causal_conv1d import reference

# Output t is made of x at t + lead - (k - 1 - j) dilation: without a lead zeros lie before x, and
# with (k - 1) dilation of it the first outputs' past is in x itself.
_CONSTANTS = "int dilation, int lead"


def signals(x: Tensor, batch: int, channels: int, length: int) -> Tensor:
    """Return memory for a result: on a GPU in x's layout."""
    last = (x.is_cuda or interpreting()) and is_channels_last(x)
    return empty_signals(x, batch, channels, length, last)


def _fake_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, lead: int
) -> Tensor:
    return signals(x, x.shape[0], weight.shape[0], x.shape[2] - lead)


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int,
    lead: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    out, per_group, kernel = weight.shape
    return (
        signals(x, x.shape[0] if needs[0] else 0, *x.shape[1:]),
        weight.new_empty(out if needs[1] else 0, per_group, kernel),
        weight.new_empty(out if needs[2] else 0),
    )


_op = Op(
    "causal_conv1d",
    {
        "forward": Direction(
            f"(Tensor x, Tensor weight, Tensor? bias, {_CONSTANTS}) -> Tensor", _fake_forward
        ),
        "backward": Direction(
            f"(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, {_CONSTANTS}, bool[3] needs)"
            " -> (Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [
        cpp(torch.float32, torch.bfloat16, torch.float16),
        triton("dgm_fast.ops.causal_conv1d.kernels", torch.float32, torch.bfloat16, torch.float16),
    ],
)


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, lead: int) -> Tensor:
    groups = x.shape[1] // weight.shape[1]
    padded = F.pad(x, ((weight.shape[2] - 1) * dilation - lead, 0))
    return reference.convolve(padded, x.shape[2] - lead, weight, bias, dilation, groups)


_run = differentiable(_op, (0, 1, 2), _reference)


def run(impl: str, *arguments: Any) -> Tensor:
    """Run the implementation asked for; the arguments are the operator's."""
    x, weight, *_ = arguments
    wanted = requested(impl)
    dense = weight.shape[1] == x.shape[1]
    if wanted == "auto" and dense and convolved_without_tensor_cores(x):
        wanted = "reference"

    implementation = _op.choose(wanted, x.device, x.dtype)
    if implementation == "reference":
        return _reference(*arguments)

    return _run(implementation, *arguments)
