"""Sample inputs, workloads and baseline of `wavenet_layer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.wavenet_layer import reference
from dgm_fast.ops.wavenet_layer.api import wavenet_layer

# On the way through a gate: tanh and sigmoid to 8 and 6 units, two slopes and the products.
_OF_GATE = 40
_TENSORS = ("x", "weight", "bias", "residual_weight", "residual_bias", "condition")


def _case(
    name: str,
    shape: tuple[int, int, int],
    gated: int,
    kernel: int = 2,
    dilation: int = 1,
    *,
    biases: bool = True,
    condition: int | None = None,
    layout: Callable[[Tensor], Tensor] = layouts.as_given,
) -> OpCase:
    """Name a call; `condition` is how many times it has."""
    batch, channels, _ = shape

    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(*size: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(size, generator=generator)).to(device, dtype)

        weight = draw(2 * gated, channels, kernel, scale=(channels * kernel) ** -0.5)
        return {
            "x": layout(draw(*shape)),
            "weight": weight,
            "bias": draw(2 * gated) if biases else None,
            "residual_weight": draw(channels, gated, 1, scale=gated**-0.5),
            "residual_bias": draw(channels) if biases else None,
            "condition": None if condition is None else layout(draw(batch, 2 * gated, condition)),
            "dilation": dilation,
        }

    absent = set() if biases else {"bias", "residual_bias"}
    absent |= {"condition"} if condition is None else set()
    return OpCase(name, make, tuple(each for each in _TENSORS if each not in absent), _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, weight = inputs["x"], inputs["weight"]
    places = x.shape[0] * x.shape[2]
    condition = 0 if inputs["condition"] is None else inputs["condition"].numel()
    result = x.numel() + places * weight.shape[0] // 2
    weights = weight.numel() + inputs["residual_weight"].numel()

    moved = x.numel() + condition + weights + result
    if backward:
        # Read x, z, the weights and the gradients again; write a gradient of each.
        moved += 2 * (x.numel() + weights + condition) + result + places * weight.shape[0] // 2

    flops = 2 * places * weights
    return Cost(moved * x.element_size(), (3 if backward else 1) * flops)


def _terms(inputs: Inputs) -> tuple[int, int]:
    x, weight = inputs["x"], inputs["weight"]
    outs, channels, kernel = weight.shape
    of_h = channels * kernel + 2
    # The backward reads h, and the gradient of h, as they are stored: half an ulp each.
    stored = int(2 * torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps)
    of_output = of_h + _OF_GATE + outs // 2 + 2
    longest = max(outs * kernel + channels, x.shape[0] * x.shape[2])
    return of_output, longest + of_h + _OF_GATE + 2 * stored


def _magnitude(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    *,
    condition: Tensor | None,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    """Return the absolute terms of h as the gate makes errors of z, and these of y.

    |dz/da| <= 1 and |dz/db| <= 1/4; the second derivatives are below 1, so that an error of h moves
    a first one by no more than itself.
    """
    h = F.conv1d(F.pad(x, ((weight.shape[2] - 1) * dilation, 0)), weight, bias, dilation=dilation)
    if condition is not None:
        h = h + condition

    a, b = h.chunk(2, dim=1)
    value, slope = (a + b / 4).detach(), (1 + a + b).detach()
    z = value + slope * (a - a.detach() + b - b.detach())
    return x + F.conv1d(z, residual_weight, residual_bias), z


def _reached(inputs: Inputs, name: str, index: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mark the outputs that hold a product of the element at `index` of `name` with no padding."""
    x, weight, dilation = inputs["x"], inputs["weight"], inputs["dilation"]
    ones, kernel = torch.ones_like(x), torch.zeros_like(weight)
    if name == "x":
        ones, kernel = torch.zeros_like(x), torch.ones_like(weight)
        ones[index] = 1
    elif name == "weight":
        kernel[index] = 1

    padded = F.pad(ones.double(), ((weight.shape[2] - 1) * dilation, 0))
    h = F.conv1d(padded, kernel.double(), dilation=dilation) > 0
    if name == "bias":
        h[:, index[0]] = True
    elif name == "condition":
        h[index if inputs["condition"].shape[2] > 1 else index[:2]] = True

    z = torch.logical_or(*h.chunk(2, dim=1))
    y = z.any(1, keepdim=True).repeat(1, x.shape[1], 1)
    if name == "x":
        y[index] = True
    elif name in ("residual_weight", "residual_bias"):
        y[:, index[0]] = True

    return y, z


def _in_place_condition(inputs: Inputs) -> Prepared:
    """Let the convolution pad both ends, and torch's own gate take sigmoid and product at once."""
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    residual = inputs["residual_weight"], inputs["residual_bias"]
    condition, dilation = inputs["condition"], inputs["dilation"]
    reach = (weight.shape[2] - 1) * dilation

    def call() -> tuple[Tensor, Tensor]:
        h = F.conv1d(x, weight, bias, padding=reach, dilation=dilation)[..., : x.shape[2]]
        a, b = (h if condition is None else h + condition).chunk(2, dim=1)
        z = a.tanh() * b.sigmoid()
        return x + F.conv1d(z, *residual), z

    return Prepared(call, tuple(inputs[each] for each in _TENSORS if inputs[each] is not None))


def _with_batch(inputs: Inputs, size: int) -> Inputs:
    condition = inputs["condition"]
    smaller = {"x": inputs["x"][:size]}
    return inputs | smaller | {"condition": None if condition is None else condition[:size]}


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"x": torch.ones(2, 3, 5), "weight": torch.ones(8, 3, 2), "bias": None}
        good |= {"residual_weight": torch.ones(3, 4, 1), "residual_bias": None}
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


CASES = OpCases(
    function=wavenet_layer,
    reference=reference.wavenet_layer,
    cases=(
        _case("aligned", (8, 16, 64), 16),
        _case("odd", (3, 5, 37), 7, 3, 2),
        _case("empty-batch", (0, 3, 5), 4),
        _case("one", (1, 1, 1), 1, 1),
        _case("no-biases", (3, 5, 19), 6, dilation=4, biases=False),
        _case("conditioned", (3, 5, 19), 6, dilation=4, condition=19),
        _case("conditioned-at-all-times", (3, 5, 19), 6, dilation=4, condition=1),
        _case("kernel-beyond-signal", (2, 3, 5), 4, 4, 3),
        _case("many-channels", (2, 70, 40), 33, 2, 4),
        replace(_case("long", (2, 6, 3001), 5, 3, 512), interpreted=False),
        _case("transposed", (3, 5, 37), 4, layout=layouts.transposed, condition=37),
        _case("sliced", (3, 5, 37), 4, layout=layouts.sliced, condition=1),
        _case("expanded", (3, 5, 37), 4, layout=layouts.expanded),
        _case("channels-last", (1, 96, 20), 40, dilation=2, layout=layouts.channels_last),
    ),
    terms=_terms,
    magnitude=_magnitude,
    with_batch=_with_batch,
    workloads=(
        _case("4x64x16000-d1", (4, 64, 16000), 64),
        _case("4x64x16000-d512", (4, 64, 16000), 64, dilation=512),
        _case("4x64x16000-conditioned", (4, 64, 16000), 64, dilation=8, condition=16000),
        _case("8x32x4000-d4", (8, 32, 4000), 32, dilation=4),
        _case("1x64x1000-d4", (1, 64, 1000), 64, dilation=4),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "x", "list", x=[1.0]),
        _bad("x-dims", ValueError, "x", "(3, 5)", x=torch.ones(3, 5)),
        _bad("x-no-times", ValueError, "x", "(2, 3, 0)", x=torch.ones(2, 3, 0)),
        _bad("weight-channels", ValueError, "weight", "(8, 2, 2)", weight=torch.ones(8, 2, 2)),
        _bad("weight-odd", ValueError, "weight", "(7, 3, 2)", weight=torch.ones(7, 3, 2)),
        _bad("weight-dtype", TypeError, "weight", "float64", weight=torch.ones(8, 3, 2).double()),
        _bad("bias-shape", ValueError, "bias", "(4,)", bias=torch.ones(4)),
        _bad("residual-none", TypeError, "residual_weight", "NoneType", residual_weight=None),
        _bad(
            "residual-shape",
            ValueError,
            "residual_weight",
            "(3, 4)",
            residual_weight=torch.ones(3, 4),
        ),
        _bad("residual-bias", ValueError, "residual_bias", "(4,)", residual_bias=torch.ones(4)),
        _bad("condition-times", ValueError, "condition", "4)", condition=torch.ones(2, 8, 4)),
        _bad("dilation-zero", ValueError, "dilation", "0", dilation=0),
    ),
    rivals={"best_eager": _in_place_condition},
    reached=_reached,
)
