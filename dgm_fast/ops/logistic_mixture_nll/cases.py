"""Sample inputs, workloads and rivals of `logistic_mixture_nll`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases
from dgm_fast.ops.logistic_mixture_nll import reference
from dgm_fast.ops.logistic_mixture_nll.api import logistic_mixture_nll
from dgm_fast.ops.logistic_mixture_nll.reference import component_count, parameters_of_channel
from dgm_fast.ops.logistic_mixture_nll.rounding import magnitude

_Layout = Callable[[Tensor], Tensor]

# In half ulps, on the way to one component's exponent: the ends of a bin, 8, in each of their
# sigmoids; exponentials, logarithm, quotients and products of a channel, 24; the sum.
_TERM_ROUNDINGS = 40


def _case(
    name: str,
    shape: tuple[int, ...],
    components: int = 2,
    *,
    layout: _Layout = layouts.as_given,
    x_dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    log_scale: float = -2.0,
    mean: float = 0.0,
    at_edges: bool = False,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        channels = shape[1]
        planes = components * (1 + channels * parameters_of_channel(channels))
        values = torch.randint(256, shape, generator=generator)
        if at_edges:
            values = values % 2 * 255

        params = scale * torch.randn((shape[0], planes, *shape[2:]), generator=generator)
        of_channels = params[:, components:].unflatten(1, (channels, -1, components))
        of_channels[:, :, 0] += mean
        of_channels[:, :, 1] += log_scale
        x = (values / 127.5 - 1).to(device, x_dtype)
        return {"x": x, "params": layout(params.to(device, dtype)).detach()}

    return OpCase(name, make, ("params",), _cost, devices)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, params = inputs["x"], inputs["params"]
    moved = x.nbytes + params.nbytes * (3 if backward else 1)
    channels, components = x.shape[1], component_count(x.shape[1], params.shape[1])

    # An exponential, a logarithm or a tanh counts 20. For each channel of a component the scale and
    # two sigmoids, the width's share, and 20 more; for each component a logarithm, its share in two
    # sums and the coefficients.
    each = channels * 100 + 60 + 20 * (channels == 3) * 3
    pixels = x.numel() // max(1, channels)
    return Cost(moved, (2 if backward else 1) * pixels * components * each)


def _terms(inputs: Inputs) -> tuple[int, int]:
    x, params = inputs["x"], inputs["params"]
    components = component_count(x.shape[1], params.shape[1])
    of_pixel = x.shape[1] * _TERM_ROUNDINGS + components
    return of_pixel + math.prod(x.shape[2:]), of_pixel


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"x": torch.zeros(2, 3, 4, 4), "params": torch.ones(2, 20, 4, 4)} | changes
        return {
            key: each.to(device) if isinstance(each, Tensor) and not each.is_meta else each
            for key, each in good.items()
        }

    return BadInput(name, make, error, names, shows)


CASES = OpCases(
    function=logistic_mixture_nll,
    reference=reference.logistic_mixture_nll,
    cases=(
        _case("aligned", (4, 3, 8, 8)),
        _case("odd", (2, 3, 5, 7), 3),
        _case("grey", (3, 1, 6, 6)),
        _case("grey-odd", (5, 1, 7, 3), 3),
        _case("empty-batch", (0, 3, 4, 4)),
        _case("no-pixels", (3, 3, 0, 4)),
        _case("no-dims", (70, 3)),
        _case("one-dim", (3, 1, 100)),
        _case("one", (1, 1, 1, 1), 1),
        _case("one-component", (3, 3, 4, 4), 1),
        replace(_case("some-components", (2, 3, 3, 3), 6), interpreted=False),
        replace(_case("many-components", (2, 3, 3, 3), 40), interpreted=False),
        _case("some-pixels", (2, 1, 17, 19), 2),
        replace(_case("many-pixels", (2, 3, 40, 41), 3), interpreted=False),
        _case("edges", (3, 3, 5, 5), at_edges=True),
        _case("channels-last", (3, 3, 5, 4), layout=layouts.channels_last),
        _case("chunked", (3, 3, 5, 4), layout=layouts.chunked),
        _case("sliced", (3, 3, 5, 4), layout=layouts.sliced),
        _case("expanded", (3, 3, 5, 4), layout=layouts.expanded),
        _case("x-in-bfloat16", (3, 3, 5, 4), x_dtype=torch.bfloat16),
        replace(_case("narrow", (3, 3, 5, 4), log_scale=-7.0), interpreted=False),
        _case("narrower-than-allowed", (3, 3, 5, 4), log_scale=-30.0),
        replace(_case("wide", (3, 3, 5, 4), log_scale=10.0), interpreted=False),
        _case("wider-than-floats", (3, 3, 5, 4), log_scale=120.0),
        replace(_case("far", (3, 3, 5, 4), mean=1000.0), interpreted=False),
        _case("large", (3, 3, 5, 4), scale=30.0),
    ),
    terms=_terms,
    magnitude=magnitude,
    signed_magnitude=True,
    with_batch=lambda inputs, size: {
        name: each[:1].repeat(size, *[1] * (each.ndim - 1)) for name, each in inputs.items()
    },
    workloads=(
        _case("32x3x32x32-of-10", (32, 3, 32, 32), 10),
        _case("128x1x28x28-of-5", (128, 1, 28, 28), 5),
        _case("4x1x16000-of-10", (4, 1, 16000), 10),
        _case("8x1x1-of-3", (8, 1, 1, 1), 3),
        _case("256x3x32x32-of-10", (256, 3, 32, 32), 10, devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("x-vector", ValueError, "x", "(3,)", x=torch.zeros(3)),
        _bad("x-two-channels", ValueError, "x", "(2, 2, 4, 4)", x=torch.zeros(2, 2, 4, 4)),
        _bad("x-bytes", TypeError, "x", "torch.uint8", x=torch.zeros(2, 3, 4, 4).byte()),
        _bad("x-list", TypeError, "x", "list", x=[[0.0]]),
        _bad("x-in-bytes", ValueError, "x", "255", x=torch.full((2, 3, 4, 4), 255.0)),
        _bad("x-below", ValueError, "x", "-1.5", x=torch.full((2, 3, 4, 4), -1.5)),
        _bad("x-with-grad", ValueError, "x", "True", x=torch.zeros(2, 3, 4, 4, requires_grad=True)),
        _bad("params-count", ValueError, "params", "(2, 21, 4, 4)", params=torch.ones(2, 21, 4, 4)),
        _bad(
            "params-pixels", ValueError, "params", "(2, 20, 4, 5)", params=torch.ones(2, 20, 4, 5)
        ),
        _bad("params-none", ValueError, "params", "(2, 0, 4, 4)", params=torch.ones(2, 0, 4, 4)),
        _bad("params-integer", TypeError, "params", "torch.int64", params=torch.ones(1).long()),
        _bad(
            "params-device",
            ValueError,
            "params",
            "meta",
            params=torch.ones(2, 20, 4, 4, device="meta"),
        ),
    ),
)
