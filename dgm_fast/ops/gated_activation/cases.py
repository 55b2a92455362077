"""Sample inputs and workloads of `gated_activation`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.gated_activation import reference
from dgm_fast.ops.gated_activation.api import gated_activation

# In u = 2^-24: tanh to 8, a sigmoid to 6, their product; of a gradient 4 e / (1 + e)^2 to 9 and
# what e = exp(-2 |a|) takes from rounding 2 |a| none; or tanh and two sigmoids to 20, and products.
# In Triton e and exp(-|b|) to 3, 1 - e to 4, reciprocals to 7, twice in a square, and products.
_OF_OUTPUT, _OF_GRADIENT = 16, 32


def _case(
    name: str,
    shape: tuple[int, ...],
    *,
    layout: Callable[[Tensor], Tensor] = layouts.as_given,
    scale: float = 1.0,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        x = scale * torch.randn(shape, generator=generator)
        return {"x": layout(x.to(device, dtype))}

    return OpCase(name, make, ("x",), _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x = inputs["x"]
    # Half as much is written as is read; the backward reads x and half as much, and writes x.
    bytes_moved = x.numel() * x.element_size() * (4 if backward else 1.5)
    return Cost(int(bytes_moved), x.numel() * (60 if backward else 20))


def _magnitude(x: Tensor) -> Tensor:
    """Return |y|, with derivatives that bound what plain PyTorch rounds in y's.

    It takes 1 - tanh^2 and 1 - sigmoid from 1, and so rounds what these are factors of.
    """
    a, b = x.chunk(2, dim=1)
    t, s = a.detach().tanh().abs(), b.detach().sigmoid()
    da, db = a - a.detach(), b - b.detach()
    return t * s + s * da + t * s * db + s * (da + db).square() / 2


def _glu(inputs: Inputs) -> Prepared:
    """Let torch's own gate take the sigmoid and the product in one call."""
    x = inputs["x"]

    def call() -> Tensor:
        a, b = x.chunk(2, dim=1)
        return F.glu(torch.cat((a.tanh(), b), dim=1), dim=1)

    return Prepared(call, (x,))


def _bad(name: str, error: type[Exception], shows: str, x: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        return {"x": x.to(device) if isinstance(x, Tensor) else x}

    return BadInput(name, make, error, "x", shows)


CASES = OpCases(
    function=gated_activation,
    reference=reference.gated_activation,
    cases=(
        _case("aligned", (4, 8, 64)),
        _case("odd", (3, 10, 7, 5)),
        _case("empty-batch", (0, 4, 3)),
        _case("no-channels", (3, 0, 3)),
        _case("no-pixels", (3, 4, 0)),
        _case("one", (1, 2)),
        _case("matrix", (13, 6)),
        replace(_case("long", (2, 6, 5001)), interpreted=False),
        _case("pieces", (2, 2, 2501)),
        _case("many-short", (300, 6)),
        _case("channels-last", (3, 10, 7, 5), layout=layouts.channels_last),
        _case("transposed", (3, 6, 5), layout=layouts.transposed),
        _case("sliced", (3, 6, 5), layout=layouts.sliced),
        _case("chunked", (3, 6, 5), layout=layouts.chunked),
        _case("expanded", (3, 6, 5), layout=layouts.expanded),
        _case("large", (3, 10, 7, 5), scale=40.0),
        _case("small", (3, 10, 7, 5), scale=1e-4),
    ),
    terms=lambda inputs: (_OF_OUTPUT, _OF_GRADIENT),
    magnitude=_magnitude,
    signed_magnitude=True,
    with_batch=lambda inputs, size: {"x": inputs["x"][:size]},
    workloads=(
        _case("32x128x28x28", (32, 128, 28, 28)),
        _case("4x128x16000", (4, 128, 16000)),
        _case("64x256x32x32", (64, 256, 32, 32)),
        _case("1x128x1", (1, 128, 1)),
    ),
    bad_inputs=(
        _bad("list", TypeError, "list", [1.0]),
        _bad("integer", TypeError, "torch.int64", torch.ones(2, 4).long()),
        _bad("vector", ValueError, "(4,)", torch.ones(4)),
        _bad("odd-channels", ValueError, "(2, 3, 4)", torch.ones(2, 3, 4)),
    ),
    rivals={"best_eager": _glu},
)
