"""Torch operators of `rational_quadratic_spline`.

Kernels see x as (B, O, I) and parameters as (B, O, I, n), whatever their strides: I is what lies
evenly in memory, which in an image is a channel's plane and elsewhere the whole sample. Parameters
are three tensors, or, where heights and derivatives are None, one with all of them side by side;
those that samples share have 1 in place of B, and so have their gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.autograd import differentiable
from dgm_fast._core.implementation import cpp, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast.ops.rational_quadratic_spline import reference

_ARGUMENTS = (
    "Tensor x, Tensor widths, Tensor? heights, Tensor? derivatives, float bound, float min_bin,"
    " float min_derivative, bool bounded, bool zuko, bool inverse"
)


def _fake_forward(x: Tensor, *parameters: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=torch.float32)


def _fake_backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None,
    derivatives: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    needs = rest[-1]
    parameters = (widths, heights, derivatives)
    return (
        x.new_empty(x.shape if needs[0] else (0,)),
        *(
            empty_gradient(each) if need else widths.new_empty(0)
            for each, need in zip(parameters, needs[1:], strict=True)
        ),
    )


def empty_gradient(parameter: Tensor) -> Tensor:
    """Return a dense tensor for the gradient, its columns laid out as the parameter's are."""
    return empty_like_columns(parameter, parameter.shape[0], parameter.dtype)


def empty_like_columns(parameter: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """Return a dense tensor for `batch` samples, its columns laid out as the parameter's are."""
    _, outer, inner, columns = parameter.shape
    if is_planar(parameter):
        planes = parameter.new_empty(batch, outer, columns, inner, dtype=dtype)
        return planes.transpose(2, 3)

    return parameter.new_empty(batch, outer, inner, columns, dtype=dtype)


def is_planar(parameter: Tensor) -> bool:
    """Whether elements lie side by side, as in a convolution's output, and not their columns."""
    return parameter.stride(2) == 1 and parameter.stride(3) != 1


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_op = Op(
    "rational_quadratic_spline",
    {
        "forward": Direction(f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_forward),
        "backward": Direction(
            f"(Tensor? grad_y, Tensor? grad_log_det, {_ARGUMENTS}, bool[4] needs)"
            " -> (Tensor, Tensor, Tensor, Tensor)",
            _fake_backward,
        ),
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.rational_quadratic_spline.kernels", *_DTYPES)],
)


def _reference(
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None,
    derivatives: Tensor | None,
    bound: float,
    min_bin: float,
    min_derivative: float,
    bounded: bool,
    zuko: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    return reference.rational_quadratic_spline(
        x,
        widths,
        heights,
        derivatives,
        bound=bound,
        tails=None if bounded else "linear",
        parametrization="zuko" if zuko else "nflows",
        min_bin=min_bin,
        min_derivative=min_derivative,
        inverse=inverse,
    )


_differentiable = differentiable(_op, range(4), _reference)


def run(impl: str, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Run the implementation asked for on x (B, *E); the arguments are the operator's."""
    implementation = _op.choose(impl, x.device, x.dtype)
    if implementation == "reference":
        return _reference(x, *arguments)

    parameters, options = arguments[:3], arguments[3:]
    if parameters[0].ndim == x.ndim:
        # Not expanded: kernels add up their gradients, and the reference its second derivatives.
        parameters = [None if each is None else each[None] for each in parameters]

    outer = 1
    if x.ndim > 2 and not all(each is None or _is_even(each) for each in parameters):
        outer = x.shape[1]

    shape = (outer, math.prod(x.shape[1:]) // max(1, outer))
    parameters = [
        None if each is None else each.reshape(each.shape[0], *shape, each.shape[-1])
        for each in parameters
    ]
    y, log_det = _differentiable(
        implementation, x.reshape(x.shape[0], *shape), *parameters, *options
    )
    return y.view(x.shape), log_det


def _is_even(parameter: Tensor) -> bool:
    """Whether one stride leads through all elements of a sample."""
    sizes, strides = parameter.shape, parameter.stride()
    return all(
        strides[dim] == sizes[dim + 1] * strides[dim + 1] for dim in range(1, parameter.ndim - 2)
    )
