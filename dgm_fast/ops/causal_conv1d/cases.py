"""Sample inputs, workloads and rivals of `causal_conv1d`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.causal_conv1d import reference
from dgm_fast.ops.causal_conv1d.api import causal_conv1d

_Layout = Callable[[Tensor], Tensor]


def _case(
    name: str,
    shape: tuple[int, int, int],
    out: int | None,
    kernel: int,
    dilation: int = 1,
    *,
    bias: bool = True,
    state: bool = False,
    x_layout: _Layout = layouts.as_given,
    weight_layout: _Layout = layouts.as_given,
) -> OpCase:
    """Name a call with `out` channels, or a depthwise one."""
    batch, ins, _ = shape

    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(*size: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(size, generator=generator)).to(device, dtype)

        per_group = 1 if out is None else ins
        weight = draw(out or ins, per_group, kernel, scale=(per_group * kernel) ** -0.5)
        return {
            "x": x_layout(draw(*shape)),
            "weight": weight_layout(weight),
            "bias": draw(out or ins) if bias else None,
            "state": draw(batch, ins, (kernel - 1) * dilation) if state else None,
            "dilation": dilation,
            "groups": ins if out is None else 1,
        }

    return OpCase(name, make, ("x", "weight", *["bias"] * bias, *["state"] * state), _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, weight = inputs["x"], inputs["weight"]
    result = x.shape[0] * weight.shape[0] * x.shape[2]
    moved = x.numel() + result + weight.numel()
    if backward:
        # Read x, the weight and the gradient again; write a gradient of each.
        moved += 2 * (x.numel() + weight.numel()) + result

    flops = 2 * result * weight.shape[1] * weight.shape[2]
    return Cost(moved * x.element_size(), (3 if backward else 1) * flops)


def _terms(inputs: Inputs) -> tuple[int, int]:
    x, weight = inputs["x"], inputs["weight"]
    out, per_group, kernel = weight.shape
    back = kernel * (1 if inputs["groups"] > 1 else out)
    return per_group * kernel + 1, max(back, x.shape[0] * x.shape[2])


def _reached(inputs: Inputs, name: str, index: tuple[int, ...]) -> Tensor:
    """Mark the outputs that hold a product of the element at `index` of `name` with no padding."""
    tensors = {each: inputs[each] for each in ("x", "weight", "state") if inputs[each] is not None}
    ones = {each: torch.ones_like(value, dtype=torch.double) for each, value in tensors.items()}
    if name in ones:
        ones[name] = torch.zeros_like(ones[name])
        ones[name][index] = 1
        for other in {"x", "state"} & ones.keys() - {name} if name != "weight" else ():
            ones[other].zero_()

    hit = reference.causal_conv1d(**ones, dilation=inputs["dilation"], groups=inputs["groups"]) > 0
    if name == "bias":
        hit[:] = False
        hit[:, index[0]] = True

    return hit


def _padded_once(inputs: Inputs) -> Prepared:
    """Let the convolution pad both ends, and drop what lies ahead."""
    if inputs["state"] is not None:
        raise ImportError("with a state the reference is as good")

    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    dilation, groups = inputs["dilation"], inputs["groups"]
    reach = (weight.shape[2] - 1) * dilation

    def call() -> Tensor:
        y = F.conv1d(x, weight, bias, padding=reach, dilation=dilation, groups=groups)
        return y[..., : x.shape[2]]

    return Prepared(call, tuple(each for each in (x, weight, bias) if each is not None))


def _with_batch(inputs: Inputs, size: int) -> Inputs:
    state = inputs["state"]
    return inputs | {"x": inputs["x"][:size], "state": None if state is None else state[:size]}


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good: dict[str, Any] = {"x": torch.ones(2, 3, 5), "weight": torch.ones(4, 3, 2)}
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


CASES = OpCases(
    function=causal_conv1d,
    reference=reference.causal_conv1d,
    cases=(
        _case("aligned", (8, 16, 64), 16, 2),
        _case("odd", (3, 5, 37), 7, 3, 2),
        _case("empty-batch", (0, 3, 5), 4, 2),
        _case("one", (1, 1, 1), 1, 1),
        _case("kernel-beyond-signal", (2, 3, 5), 4, 4, 3),
        _case("no-bias", (3, 5, 19), 7, 2, 4, bias=False),
        _case("state", (3, 5, 19), 7, 3, 4, state=True),
        _case("state-beyond-signal", (3, 5, 3), 7, 2, 8, state=True),
        _case("far-apart", (2, 4, 301), 5, 2, 128),
        _case("many-channels", (2, 70, 40), 66, 2, 4),
        replace(_case("long", (2, 6, 3001), 5, 3, 512), interpreted=False),
        replace(_case("bands", (1, 96, 2100), 9, 2, 1500), interpreted=False),
        _case("depthwise", (3, 6, 37), None, 4),
        _case("depthwise-dilated", (3, 6, 37), None, 3, 5, bias=False),
        _case("depthwise-state", (3, 6, 9), None, 4, 2, state=True),
        replace(_case("depthwise-long", (2, 3, 4500), None, 4, 3), interpreted=False),
        _case("depthwise-transposed-x", (3, 6, 37), None, 4, x_layout=layouts.transposed),
        _case("transposed-x", (3, 5, 37), 8, 2, 2, x_layout=layouts.transposed),
        _case("channels-last", (3, 16, 37), 24, 2, 5, x_layout=layouts.channels_last),
        _case("depthwise-channels-last", (3, 6, 37), None, 4, x_layout=layouts.channels_last),
        _case("sliced-x", (3, 5, 37), 8, 2, 2, x_layout=layouts.sliced),
        _case("expanded-x", (3, 5, 37), 8, 2, 2, x_layout=layouts.expanded, state=True),
        _case("transposed-weight", (3, 5, 37), 8, 2, 2, weight_layout=layouts.transposed),
    ),
    terms=_terms,
    with_batch=_with_batch,
    workloads=(
        _case("4x64x16000-k2-d1", (4, 64, 16000), 128, 2),
        _case("4x64x16000-k2-d512", (4, 64, 16000), 128, 2, 512),
        _case("4x64x16000-k3-d4", (4, 64, 16000), 64, 3, 4),
        _case("8x32x4000-k2-d8", (8, 32, 4000), 64, 2, 8),
        _case("4x512x4096-k4-depthwise", (4, 512, 4096), None, 4),
        _case("1x64x1-k2-d8-state", (1, 64, 1), 128, 2, 8, state=True),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "x", "list", x=[1.0]),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 3, 5).long()),
        _bad("x-dims", ValueError, "x", "(3, 5)", x=torch.ones(3, 5)),
        _bad("weight-channels", ValueError, "weight", "(4, 2, 2)", weight=torch.ones(4, 2, 2)),
        _bad("weight-empty", ValueError, "weight", "(4, 3, 0)", weight=torch.ones(4, 3, 0)),
        _bad("weight-depthwise", ValueError, "weight", "(4, 3, 2)", groups=3),
        _bad("weight-dtype", TypeError, "weight", "float64", weight=torch.ones(4, 3, 2).double()),
        _bad(
            "weight-device", ValueError, "weight", "meta", weight=torch.ones(4, 3, 2, device="meta")
        ),
        _bad("bias-shape", ValueError, "bias", "(5,)", bias=torch.ones(5)),
        _bad("groups-two", ValueError, "groups", "2", groups=2),
        _bad("dilation-zero", ValueError, "dilation", "0", dilation=0),
        _bad("state-shape", ValueError, "state", "(2, 3, 2)", state=torch.ones(2, 3, 2)),
    ),
    rivals={"best_eager": _padded_once},
    reached=_reached,
)
