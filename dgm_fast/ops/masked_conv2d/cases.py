"""Sample inputs, workloads and rivals of `masked_conv2d`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.masked_conv2d import reference
from dgm_fast.ops.masked_conv2d.api import masked_conv2d

# On the way through a gate: tanh and sigmoid to 8 and 6 units, two slopes and the products.
_OF_GATE = 40

_Layout = Callable[[Tensor], Tensor]


def _case(
    name: str,
    shape: tuple[int, int, int, int],
    out: int,
    kernel: tuple[int, int],
    mask_type: str = "B",
    *,
    bias: bool = True,
    residual: bool = False,
    x_layout: _Layout = layouts.as_given,
    weight_layout: _Layout = layouts.as_given,
    scale: float = 1.0,
    **options: Any,
) -> OpCase:
    batch, ins, height, width = shape

    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(*size: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(size, generator=generator)).to(device, dtype)

        fan_in = max(1, ins * kernel[0] * kernel[1] // 2)
        weight = draw(out, ins, *kernel, scale=fan_in**-0.5)
        return {
            "x": x_layout(draw(*shape, scale=scale)),
            "weight": weight_layout(weight),
            "bias": draw(out) if bias else None,
            "residual": x_layout(draw(batch, out, height, width)) if residual else None,
            "mask_type": mask_type,
            **options,
        }

    names = ("x", "weight", *["bias"] * bias, *["residual"] * residual)
    return OpCase(name, make, names, _cost)


def _live(inputs: Inputs) -> Tensor:
    gated = inputs.get("gated", False)
    groups = inputs.get("channel_groups", 1)
    return reference.mask_of(inputs["weight"].detach(), inputs["mask_type"], groups, gated)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, weight = inputs["x"], inputs["weight"]
    out = weight.shape[0] // (2 if inputs.get("gated", False) else 1)
    result = x.shape[0] * out * x.shape[2:].numel()
    residual = 0 if inputs["residual"] is None else inputs["residual"].numel()
    live = int(_live(inputs).sum())

    moved = x.numel() + result + residual + live
    if backward:
        # Read x, the weight and the gradient again; write a gradient of each.
        moved += 2 * (x.numel() + live) + result + residual

    flops = 2 * live * x.shape[0] * x.shape[2:].numel()
    return Cost(moved * x.element_size(), (3 if backward else 1) * flops)


def _terms(inputs: Inputs) -> tuple[int, int]:
    x, weight = inputs["x"], inputs["weight"]
    taps, pixels = weight.shape[2:].numel(), x.shape[0] * x.shape[2:].numel()
    of_output, of_gradient = x.shape[1] * taps + 2, max(weight.shape[0] * taps, pixels)
    if not inputs.get("gated", False):
        return of_output, of_gradient

    # The backward reads h, and the gradient of h, as they are stored: half an ulp each.
    stored = int(2 * torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps)
    return of_output + _OF_GATE, of_gradient + _OF_GATE + stored


def _magnitude(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    mask_type: str,
    residual: Tensor | None,
    channel_groups: int = 1,
    gated: bool = False,
    dilation: int = 1,
) -> Tensor:
    """Return the absolute terms of h or, gated, what y and its derivatives make of their errors.

    |dy/da| <= 1 and |dy/db| <= 1/4; the second derivatives are below 1, so that an error of h moves
    a first one by no more than itself.
    """
    mask = reference.mask_of(weight, mask_type, channel_groups, gated)
    h = _eager(x, weight, bias, mask=mask, residual=residual, dilation=dilation)
    if not gated:
        return h

    a, b = h.chunk(2, dim=1)
    value, slope = (a + b / 4).detach(), (1 + a + b).detach()
    return value + slope * (a - a.detach() + b - b.detach())


def _reached(inputs: Inputs, name: str, index: tuple[int, ...]) -> Tensor:
    """Mark the outputs that hold a live product with the element at `index` of `name`."""
    x, weight, live = inputs["x"].detach(), inputs["weight"].detach(), _live(inputs)
    seen, kernel = torch.ones_like(x), torch.zeros_like(weight)
    if name == "x":
        seen, kernel = torch.zeros_like(x), live
        seen[index] = 1
    elif name == "weight":
        kernel[index] = live[index]

    dilation = inputs.get("dilation", 1)
    padding = reference.padding(weight, dilation)
    hit = F.conv2d(seen.double(), kernel.double(), padding=padding, dilation=dilation) > 0
    if name == "bias":
        hit[:, index[0]] = True
    elif name == "residual":
        hit[index] = True

    return torch.logical_or(*hit.chunk(2, dim=1)) if inputs.get("gated", False) else hit


def _eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    mask: Tensor,
    residual: Tensor | None = None,
    gated: bool = False,
    dilation: int = 1,
    **_: Any,
) -> Tensor:
    """Convolve with a masked weight, whose mask is made once."""
    padding = reference.padding(weight, dilation)
    h = F.conv2d(x, weight * mask, bias, padding=padding, dilation=dilation)
    return reference.finish(h, residual, gated)


def _masked_weight(inputs: Inputs) -> Prepared:
    call = partial(_eager, **inputs, mask=_live(inputs))
    return Prepared(call, _leaves(inputs))


def _cropped(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    mask: Tensor,
    residual: Tensor | None,
    gated: bool = False,
    dilation: int = 1,
    **_: Any,
) -> Tensor:
    """Leave the rows below the centre out: they are all dead."""
    padding = reference.padding(weight, dilation)
    weight = weight[:, :, : mask.shape[2]] * mask
    h = F.conv2d(x, weight, bias, padding=padding, dilation=dilation)
    return reference.finish(h[:, :, : x.shape[2]], residual, gated)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_cropped, dynamic=False)


def _cropped_weight(inputs: Inputs, compiled: bool = False) -> Prepared:
    mask = _live(inputs)[:, :, : inputs["weight"].shape[2] // 2 + 1]
    call = partial(_compiled() if compiled else _cropped, **inputs, mask=mask)
    return Prepared(call, _leaves(inputs))


def _in_channels_last(prepare: Callable[[Inputs], Prepared]) -> Callable[[Inputs], Prepared]:
    """Prepare a rival on images that lie as oneDNN and cuDNN convolve them."""

    def prepare_so(inputs: Inputs) -> Prepared:
        x = inputs["x"]
        last = layouts.channels_last(x.detach()).requires_grad_(x.requires_grad)
        return prepare({**inputs, "x": last})

    return prepare_so


def _leaves(inputs: Inputs) -> tuple[Tensor, ...]:
    tensors = (inputs[name] for name in ("x", "weight", "bias", "residual"))
    return tuple(each for each in tensors if each is not None)


def _with_batch(inputs: Inputs, size: int) -> Inputs:
    residual = inputs["residual"]
    smaller = {"x": inputs["x"][:size], "residual": None if residual is None else residual[:size]}
    return inputs | smaller


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"x": torch.ones(2, 3, 5, 5), "weight": torch.ones(6, 3, 3, 3)}
        good |= {"bias": torch.ones(6), "mask_type": "A"}
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


_RGB = {"channel_groups": 3}
_GATED = {"gated": True, "residual": True}
_CHANNELS_LAST = {"x_layout": layouts.channels_last}

CASES = OpCases(
    function=masked_conv2d,
    reference=reference.masked_conv2d,
    cases=(
        _case("aligned", (8, 16, 8, 8), 16, (3, 3)),
        _case("odd", (3, 5, 7, 9), 11, (5, 3), "A"),
        _case("first-layer", (3, 1, 9, 6), 8, (7, 7), "A"),
        _case("empty-batch", (0, 3, 4, 4), 2, (3, 3)),
        _case("one", (1, 1, 1, 1), 1, (1, 1)),
        _case("nothing-live", (2, 3, 4, 5), 6, (1, 1), "A"),
        _case("kernel-beyond-image", (2, 3, 2, 3), 5, (7, 9)),
        _case("one-row", (2, 4, 1, 37), 6, (1, 5), "A"),
        _case("one-column", (2, 4, 19, 1), 6, (3, 3)),
        _case("no-bias", (3, 5, 6, 6), 7, (3, 3), bias=False),
        _case("dilated", (2, 6, 11, 9), 9, (3, 3), dilation=2),
        _case("dilated-apart", (2, 6, 11, 9), 9, (3, 5), dilation=(3, 2)),
        _case("rgb-first", (3, 3, 7, 6), 9, (5, 5), "A", **_RGB),
        _case("rgb", (3, 12, 7, 6), 21, (3, 3), **_RGB),
        _case("residual", (3, 5, 6, 7), 7, (3, 3), residual=True),
        _case("gated", (3, 5, 6, 7), 14, (3, 3), gated=True),
        _case("gated-residual", (3, 6, 6, 7), 24, (1, 3), "A", **_GATED),
        _case("gated-rgb", (2, 9, 5, 6), 18, (3, 3), **_GATED, **_RGB),
        replace(_case("many-channels", (2, 70, 5, 6), 66, (3, 3)), interpreted=False),
        _case("many-channels-odd", (1, 38, 5, 6), 66, (1, 3)),
        _case("many-channels-aligned", (1, 40, 5, 6), 72, (1, 3)),
        _case("many-channels-rgb", (1, 96, 3, 4), 96, (1, 3), "A", **_RGB),
        _case("many-channels-gated", (1, 48, 3, 4), 128, (1, 3), channel_groups=2, **_GATED),
        replace(_case("many-pixels", (1, 3, 37, 41), 5, (5, 5)), interpreted=False),
        _case("some-pixels", (1, 2, 19, 31), 3, (3, 3)),
        replace(_case("many-samples", (70, 2, 6, 5), 4, (3, 3)), interpreted=False),
        replace(_case("bands", (1, 96, 30, 40), 8, (3, 3)), interpreted=False),
        _case("channels-last", (3, 12, 6, 7), 20, (3, 3), **_CHANNELS_LAST, residual=True),
        _case("channels-last-gated", (2, 6, 5, 7), 10, (3, 3), **_CHANNELS_LAST, **_GATED),
        *(
            replace(_case(f"last-{name}", *sizes, **options, **_CHANNELS_LAST), interpreted=False)
            for name, sizes, options in (
                ("wide", ((3, 72, 9, 11), 40, (3, 3)), {"residual": True}),
                ("wide-gated", ((2, 64, 10, 20), 48, (5, 5), "A"), _GATED),
                ("many-channels-gated", ((2, 136, 17, 9), 272, (3, 3)), {"gated": True}),
                ("rgb", ((2, 24, 9, 33), 48, (3, 3), "A"), _RGB),
                ("pixels", ((5, 64, 6, 7), 72, (1, 1)), {"bias": False}),
                ("dilated", ((2, 16, 6, 19), 24, (3, 3)), {"dilation": (1, 3)}),
                ("tall", ((2, 64, 9, 11), 72, (7, 3)), {}),
            )
        ),
        replace(
            _case(
                "last-chunked-x", (2, 64, 6, 7), 72, (3, 3), x_layout=layouts.chunked_channels_last
            ),
            interpreted=False,
        ),
        _case("transposed-x", (3, 5, 6, 7), 8, (3, 3), x_layout=layouts.transposed),
        _case("sliced-x", (3, 5, 6, 7), 8, (3, 3), x_layout=layouts.sliced, residual=True),
        _case("chunked-x", (3, 5, 6, 7), 8, (3, 3), x_layout=layouts.chunked, **_GATED),
        _case("expanded-x", (3, 5, 6, 7), 8, (3, 3), x_layout=layouts.expanded, residual=True),
        _case("transposed-weight", (3, 5, 6, 7), 8, (3, 3), weight_layout=layouts.transposed),
        _case("large-gate", (3, 5, 6, 7), 8, (3, 3), scale=60.0, gated=True),
    ),
    terms=_terms,
    magnitude=_magnitude,
    with_batch=_with_batch,
    workloads=(
        _case("32x64x28x28-k3", (32, 64, 28, 28), 64, (3, 3)),
        _case("32x64x28x28-k5", (32, 64, 28, 28), 64, (5, 5)),
        _case("32x64x28x28-k7", (32, 64, 28, 28), 64, (7, 7)),
        _case("32x64x28x28-k1", (32, 64, 28, 28), 64, (1, 1)),
        _case("32x64x28x28-k1-last", (32, 64, 28, 28), 64, (1, 1), **_CHANNELS_LAST),
        _case("32x64x28x28-k5-last", (32, 64, 28, 28), 64, (5, 5), **_CHANNELS_LAST),
        _case("32x1x28x28-k7-first", (32, 1, 28, 28), 64, (7, 7), "A"),
        _case("16x120x32x32-k3-rgb", (16, 120, 32, 32), 120, (3, 3), **_RGB),
        _case("32x64x28x28-k3-gated", (32, 64, 28, 28), 128, (3, 3), gated=True),
        _case("64x128x8x8-k3", (64, 128, 8, 8), 128, (3, 3)),
        _case("1x64x28x28-k5", (1, 64, 28, 28), 64, (5, 5)),
        *(
            replace(
                _case(f"64x128x32x32-k3-gated{name}", (64, 128, 32, 32), 256, (3, 3), **options),
                devices=("cuda",),
            )
            for name, options in (
                ("", {"gated": True}),
                ("-last", {"gated": True, **_CHANNELS_LAST}),
            )
        ),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "x", "list", x=[1.0]),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 3, 5, 5).long()),
        _bad("x-dims", ValueError, "x", "(3, 5, 5)", x=torch.ones(3, 5, 5)),
        _bad(
            "weight-channels", ValueError, "weight", "(6, 4, 3, 3)", weight=torch.ones(6, 4, 3, 3)
        ),
        _bad("weight-even", ValueError, "weight", "(6, 3, 3, 4)", weight=torch.ones(6, 3, 3, 4)),
        _bad(
            "weight-dtype", TypeError, "weight", "float64", weight=torch.ones(6, 3, 3, 3).double()
        ),
        _bad(
            "weight-device",
            ValueError,
            "weight",
            "meta",
            weight=torch.ones(6, 3, 3, 3, device="meta"),
        ),
        _bad("bias-shape", ValueError, "bias", "(5,)", bias=torch.ones(5)),
        _bad("bias-dtype", TypeError, "bias", "torch.bfloat16", bias=torch.ones(6).bfloat16()),
        _bad("mask-type", ValueError, "mask_type", "'C'", mask_type="C"),
        _bad("groups-odd", ValueError, "channel_groups", "2", channel_groups=2),
        _bad("groups-none", ValueError, "channel_groups", "0", channel_groups=0),
        _bad("dilation-zero", ValueError, "dilation", "0", dilation=0),
        _bad("dilation-three", ValueError, "dilation", "(1, 1, 1)", dilation=(1, 1, 1)),
        _bad(
            "residual-shape",
            ValueError,
            "residual",
            "(2, 3, 5, 5)",
            residual=torch.ones(2, 3, 5, 5),
        ),
        _bad(
            "gated-odd",
            ValueError,
            "weight",
            "5",
            weight=torch.ones(5, 3, 3, 3),
            bias=None,
            gated=True,
        ),
    ),
    rivals={
        "eager_masked_once": _masked_weight,
        "eager_channels_last": _in_channels_last(_masked_weight),
        "best_eager": _cropped_weight,
        "cropped_channels_last": _in_channels_last(_cropped_weight),
        "compile_cropped": _in_channels_last(partial(_cropped_weight, compiled=True)),
    },
    reached=_reached,
)
