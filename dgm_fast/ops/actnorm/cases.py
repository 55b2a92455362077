"""Sample inputs, workloads and rivals of `actnorm`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases
from dgm_fast.ops.actnorm import reference
from dgm_fast.ops.actnorm.api import actnorm

# In u = 2^-24: the exponential 3, the sum, the product, and the sum of an inverse.
_OF_OUTPUT = 6
# grad_y times that, and the product with x + t; what sums round is in the magnitude.
_OF_GRADIENT = 9

_Layout = Callable[[Tensor], Tensor]


def _as_given(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, -1).contiguous().transpose(1, -1)


def _sliced(tensor: Tensor) -> Tensor:
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


def _chunked(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, tensor), dim=1).chunk(2, dim=1)[1]


def _expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


def _case(
    name: str,
    shape: tuple[int, ...],
    *,
    layout: _Layout = _as_given,
    parameter_layout: _Layout = _as_given,
    scale: float = 1.0,
    x_scale: float = 1.0,
    parameter_dtype: torch.dtype | None = None,
    inverse: bool = False,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        x = (x_scale * torch.randn(shape, generator=generator)).to(device, dtype)
        parameters = scale * torch.randn(2, shape[1], generator=generator)
        log_scale, shift = parameters.to(device, parameter_dtype or dtype)
        return {
            "x": layout(x),
            "log_scale": parameter_layout(log_scale),
            "shift": parameter_layout(shift),
            "inverse": inverse,
        }

    return OpCase(name, make, ("x", "log_scale", "shift"), _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x = inputs["x"]
    # Read x and write y; then read grad_y and x and write grad_x.
    passes = 5 if backward else 2
    moved = passes * x.numel() * x.element_size() + 4 * x.shape[0]
    return Cost(moved, (8 if backward else 2) * x.numel())


def _magnitude(
    x: Tensor, log_scale: Tensor, shift: Tensor, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the absolute terms of y and log_det, such that its derivatives are those of theirs.

    All of them add: an inverse is the forward with the shift after the product. The gradients of
    the parameters, and log_det, are sums that round once for each term.
    """
    inner = math.prod(x.shape[2:])
    of_sum = 1 + x.shape[0] * (inner + 1) / _OF_GRADIENT
    scale = log_scale.detach()
    scale = (-scale if inverse else scale).exp()
    step = of_sum * (log_scale - log_scale.detach())
    scale = scale * (1 + step + step.square() / 2)

    absolute = [
        each.detach().abs() + (each - each.detach()) * k for each, k in ((x, 1), (shift, of_sum))
    ]
    x, shift = absolute
    broadcast = (-1, *[1] * (x.ndim - 2))
    scale, shift = scale.reshape(broadcast), shift.reshape(broadcast)
    y = x * scale + shift if inverse else (x + shift) * scale

    of_channels = 1 + x.shape[1] / _OF_OUTPUT
    terms = log_scale.detach().abs() + step
    return y, (inner * of_channels * terms.sum()).expand(x.shape[0])


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"x": torch.ones(2, 4, 3), "log_scale": torch.ones(4), "shift": torch.ones(4)}
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


CASES = OpCases(
    function=actnorm,
    reference=reference.actnorm,
    cases=(
        _case("aligned", (16, 4, 8, 8)),
        _case("odd", (13, 5, 3, 7)),
        _case("empty-batch", (0, 4, 3, 3)),
        _case("no-elements", (3, 4, 0, 2)),
        _case("no-channels", (3, 0, 5)),
        _case("one", (1, 1)),
        _case("features", (13, 37)),
        replace(_case("wide-features", (13, 6003)), interpreted=False),
        _case("tiles-of-features", (35, 301)),
        replace(_case("short-lines", (13, 37, 5)), interpreted=False),
        _case("many-short", (1200, 2)),
        _case("many-short-lines", (700, 3, 2)),
        replace(_case("long-lines", (12, 3, 18001)), interpreted=False),
        _case("lines-of-tiles", (2, 2, 4099)),
        _case("inverse", (13, 5, 6, 7), inverse=True),
        _case("inverse-features", (13, 37), inverse=True),
        _case("transposed", (13, 6, 25), layout=_transposed),
        _case("sliced", (13, 6, 25), layout=_sliced, inverse=True),
        _case("chunked", (13, 6, 25), layout=_chunked),
        _case("chunked-features", (13, 37), layout=_chunked),
        _case("expanded", (13, 6, 25), layout=_expanded),
        _case("strided-parameters", (13, 6, 25), parameter_layout=_sliced),
        _case("expanded-parameters", (13, 6, 25), parameter_layout=_expanded),
        _case("parameters-in-float32", (13, 6, 25), parameter_dtype=torch.float32),
        _case("parameters-in-bfloat16", (13, 6, 25), parameter_dtype=torch.bfloat16),
        _case("large-features", (13, 200), scale=15.0, x_scale=1000.0),
        replace(_case("large", (13, 200, 2), scale=15.0, x_scale=1000.0), interpreted=False),
    ),
    terms=lambda inputs: (_OF_OUTPUT, _OF_GRADIENT),
    with_batch=lambda inputs, size: {**inputs, "x": inputs["x"][:size]},
    magnitude=_magnitude,
    signed_magnitude=True,
    workloads=(
        _case("256x12x32x32", (256, 12, 32, 32)),
        _case("256x48x8x8", (256, 48, 8, 8)),
        _case("256x12x32x32-inverse", (256, 12, 32, 32), inverse=True),
        _case("4096x64", (4096, 64)),
        _case("256x48x64x64", (256, 48, 64, 64)),
        _case("100x2", (100, 2)),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "x", "list", x=[1.0]),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 4, dtype=torch.long)),
        _bad("x-vector", ValueError, "x", "(4,)", x=torch.ones(4)),
        _bad("scale-shape", ValueError, "log_scale", "(3,)", log_scale=torch.ones(3)),
        _bad("scale-dtype", TypeError, "log_scale", "float64", log_scale=torch.ones(4).double()),
        _bad("shift-shape", ValueError, "shift", "(4, 1)", shift=torch.ones(4, 1)),
        _bad("shift-none", TypeError, "shift", "NoneType", shift=None),
        _bad("shift-device", ValueError, "shift", "meta", shift=torch.ones(4, device="meta")),
    ),
)
