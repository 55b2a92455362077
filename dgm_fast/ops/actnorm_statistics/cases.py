"""Sample inputs, workloads and rivals of `actnorm_statistics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.actnorm_statistics import reference
from dgm_fast.ops.actnorm_statistics.api import actnorm_statistics

_UNIT = 2.0**-24
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
    name: str, shape: tuple[int, ...], *, layout: _Layout = _as_given, mean: float = 0.0
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        x = mean + torch.randn(shape, generator=generator)
        return {"x": layout(x.to(device, dtype))}

    return OpCase(name, make, cost=_cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x = inputs["x"]
    return Cost(x.numel() * x.element_size() + 8 * x.shape[1], 3 * x.numel())


def _magnitude(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the roundings of each result are relative to; the count is exact below 2^24.

    A mean that is wrong by e moves the sum of n squared deviations by n e^2, where e is at most
    n u times the mean of the absolute values. Sums round once for each of their terms.
    """
    _, squared, count = reference.actnorm_statistics(x)
    mean_of_absolute, _, _ = reference.actnorm_statistics(x.abs())
    by_mean = count.square() * _UNIT * mean_of_absolute.square()
    return mean_of_absolute, squared + by_mean, count


def _terms(inputs: Inputs) -> tuple[int, int]:
    x = inputs["x"]
    return x.numel() // max(1, x.shape[1]) + 8, 0


def _var_mean(inputs: Inputs) -> Prepared:
    x = inputs["x"]
    others = [dim for dim in range(x.ndim) if dim != 1]
    count = x.numel() // x.shape[1]

    def call() -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.float(), others, correction=0)
        return mean, variance * count, mean.new_full((), count)

    return Prepared(call)


def _bad(name: str, error: type[Exception], shows: str, x: object) -> BadInput:
    return BadInput(name, lambda device: {"x": x}, error, "x", shows)


CASES = OpCases(
    function=actnorm_statistics,
    reference=reference.actnorm_statistics,
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
        _case("far-mean", (13, 6, 25), mean=1000.0),
        _case("far-mean-features", (130, 6), mean=-1000.0),
        _case("transposed", (13, 6, 25), layout=_transposed),
        _case("sliced", (13, 6, 25), layout=_sliced),
        _case("chunked", (13, 6, 25), layout=_chunked),
        _case("expanded", (13, 6, 25), layout=_expanded),
    ),
    terms=_terms,
    with_batch=lambda inputs, size: {"x": inputs["x"][:size]},
    magnitude=_magnitude,
    signed_magnitude=True,
    workloads=(
        _case("256x12x32x32", (256, 12, 32, 32)),
        _case("256x48x8x8", (256, 48, 8, 8)),
        _case("4096x64", (4096, 64)),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "list", [1.0]),
        _bad("x-integer", TypeError, "torch.int64", torch.ones(2, 4, dtype=torch.long)),
        _bad("x-vector", ValueError, "(4,)", torch.ones(4)),
    ),
    rivals={"best_eager": _var_mean},
)
