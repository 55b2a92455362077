"""Sample inputs, workloads and rivals of `masked_linear`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.masked_linear import reference
from dgm_fast.ops.masked_linear.api import masked_linear
from dgm_fast.ops.masked_linear.structure import MaskStructure

_Mask = Callable[[int, int, torch.Generator], Tensor]
_Layout = Callable[[Tensor], Tensor]


def _staircase(ins: int, outs: int, generator: torch.Generator) -> Tensor:
    # Sorted degrees, as in a MADE: unit o sees the inputs up to its share of them.
    return torch.arange(outs)[:, None] * ins // max(1, outs) >= torch.arange(ins)


def _permuted(ins: int, outs: int, generator: torch.Generator) -> Tensor:
    mask = _staircase(ins, outs, generator)
    rows = torch.randperm(outs, generator=generator)
    return mask[rows][:, torch.randperm(ins, generator=generator)]


def _random_half(ins: int, outs: int, generator: torch.Generator) -> Tensor:
    return torch.rand(outs, ins, generator=generator) < 0.5


def _zeros(ins: int, outs: int, generator: torch.Generator) -> Tensor:
    return torch.zeros(outs, ins, dtype=torch.bool)


def _ones(ins: int, outs: int, generator: torch.Generator) -> Tensor:
    return torch.ones(outs, ins, dtype=torch.bool)


def _dead_units(ins: int, outs: int, generator: torch.Generator) -> Tensor:
    mask = _permuted(ins, outs, generator)
    mask[::3] = False
    mask[:, 1::4] = False
    return mask


def _as_given(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t()


def _sliced(tensor: Tensor) -> Tensor:
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


def _expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


def _case(
    name: str,
    rows: tuple[int, ...],
    ins: int,
    outs: int,
    mask: _Mask = _staircase,
    *,
    bias: bool = True,
    x_layout: _Layout = _as_given,
    weight_layout: _Layout = _as_given,
    x_scale: float = 1.0,
    weight_scale: float = 1.0,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        live = mask(ins, outs, generator)

        def draw(shape: tuple[int, ...], scale: float, layout: _Layout = _as_given) -> Tensor:
            values = scale * torch.randn(shape, generator=generator)
            return layout(values.to(device, dtype)).detach()

        return {
            "x": draw((*rows, ins), x_scale, x_layout),
            "weight": draw((outs, ins), weight_scale * max(1, ins) ** -0.5, weight_layout),
            "bias": draw((outs,), x_scale * weight_scale) if bias else None,
            "mask": MaskStructure.from_mask(live.to(device)),
        }

    differentiable = ("x", "weight", "bias") if bias else ("x", "weight")
    return OpCase(name, make, differentiable, _cost, devices)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    live = int(inputs["mask"].mask.sum())
    batch = x.numel() // max(1, x.shape[-1])
    y = batch * weight.shape[0]
    bias_size = 0 if bias is None else bias.numel()

    moved = x.numel() + live + bias_size + y
    if backward:
        # Read grad_y, x and the weight; write their gradients, the weight's with its zeros.
        moved += y + 2 * x.numel() + live + weight.numel() + bias_size

    products = 3 if backward else 1
    return Cost(moved * x.element_size(), products * 2 * batch * live)


def _premasked(inputs: Inputs) -> Prepared:
    # A weight that starts masked and gets masked gradients stays masked, so training needs one
    # product with the mask a step: on the gradient.
    dense = inputs["mask"].dense(inputs["weight"].dtype)
    weight = (inputs["weight"].detach() * dense).requires_grad_(inputs["weight"].requires_grad)
    if weight.requires_grad:
        weight.register_hook(lambda grad: grad * dense)

    return _linear(inputs["x"], weight, inputs["bias"])


def _unmasked(inputs: Inputs) -> Prepared:
    return _linear(inputs["x"], inputs["weight"], inputs["bias"])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Prepared:
    leaves = (x, weight) if bias is None else (x, weight, bias)
    return Prepared(lambda: F.linear(x, weight, bias), leaves)


def _zuko(inputs: Inputs) -> Prepared:
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    zuko = importlib.import_module("zuko.nn")
    layer = zuko.MaskedLinear(inputs["mask"].mask, bias=bias is not None)

    layer.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), bias.requires_grad)

    return Prepared(lambda: layer(x), (x, *layer.parameters()))


def _terms(inputs: Inputs) -> tuple[int, int]:
    outs, ins = inputs["weight"].shape
    batch = inputs["x"].numel() // max(1, ins)
    return ins + 1, max(outs, batch)


def _reached(inputs: Inputs, name: str, index: tuple[int, ...]) -> Tensor:
    """Mark the outputs that hold a live product with the element at `index` of `name`."""
    mask = inputs["mask"].mask
    hit = torch.zeros(*inputs["x"].shape[:-1], mask.shape[0], dtype=torch.bool, device=mask.device)
    if name == "x":
        hit[index[:-1]] = mask[:, index[-1]]
    elif name == "bias" or mask[index]:
        hit[..., index[0]] = True

    return hit


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {
            "x": torch.ones(2, 3),
            "weight": torch.ones(4, 3),
            "bias": torch.ones(4),
            "mask": MaskStructure.from_mask(torch.ones(4, 3)),
        }
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    stays = not isinstance(value, Tensor | nn.Module) or getattr(value, "is_meta", False)
    return value if stays else value.to(device)


CASES = OpCases(
    function=masked_linear,
    reference=reference.masked_linear,
    cases=(
        _case("aligned", (64,), 64, 64),
        _case("odd", (7,), 13, 17),
        _case("empty-batch", (0,), 13, 17),
        _case("no-inputs", (5,), 0, 7),
        _case("no-outputs", (5,), 7, 0),
        _case("one", (1,), 1, 1),
        _case("vector", (), 13, 17),
        _case("leading-dims", (2, 3, 5), 13, 17),
        _case("no-bias", (7,), 13, 17, _permuted, bias=False),
        _case("one-row", (1,), 65, 129),
        _case("few-rows-permuted", (5,), 100, 36, _permuted),
        _case("few-rows-irregular", (3,), 40, 72, _random_half),
        _case("block-edges", (33,), 65, 129),
        _case("block-edges-permuted", (33,), 65, 129, _permuted),
        _case("block-edges-irregular", (33,), 65, 129, _random_half),
        replace(_case("many-blocks", (128,), 300, 520), interpreted=False),
        _case("many-blocks-permuted", (130,), 300, 520, _permuted),
        _case("transposed-x", (9,), 20, 24, x_layout=_transposed),
        _case("sliced-x", (9,), 20, 24, _permuted, x_layout=_sliced),
        _case("expanded-x", (9,), 20, 24, x_layout=_expanded),
        _case("transposed-weight", (9,), 20, 24, weight_layout=_transposed),
        _case("sliced-weight", (9,), 20, 24, _permuted, weight_layout=_sliced),
        _case("zero-mask", (6,), 10, 12, _zeros),
        _case("full-mask", (6,), 10, 12, _ones),
        _case("dead-units", (6,), 30, 33, _dead_units),
        _case("large-x-small-weight", (6,), 30, 33, x_scale=1e4, weight_scale=1e-4),
        _case("subnormal-sums", (6,), 30, 33, x_scale=1e-20, weight_scale=1e-18),
        _case("small-x-large-weight", (6,), 30, 33, _permuted, x_scale=1e-4, weight_scale=1e4),
    ),
    terms=_terms,
    with_batch=lambda inputs, size: {**inputs, "x": inputs["x"][:size]},
    workloads=(
        _case("128x4096x4096", (128,), 4096, 4096),
        _case("128x4096x4096-permuted", (128,), 4096, 4096, _permuted),
        _case("128x4096x4096-random-half", (128,), 4096, 4096, _random_half),
        _case("1x4096x4096", (1,), 4096, 4096),
        _case("256x784x2048", (256,), 784, 2048),
        _case("100x784x2048", (100,), 784, 2048),
        _case("100x2048x2048", (100,), 2048, 2048),
        _case("100x64x512", (100,), 64, 512),
        _case("100x32x128", (100,), 32, 128),
        _case("8192x4096x4096", (8192,), 4096, 4096, devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("x-width", ValueError, "x", "(2, 5)", x=torch.ones(2, 5)),
        _bad("x-scalar", ValueError, "x", "()", x=torch.ones(())),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 3, dtype=torch.long)),
        _bad("x-list", TypeError, "x", "list", x=[1.0, 2.0, 3.0]),
        _bad("weight-shape", ValueError, "weight", "(3, 4)", weight=torch.ones(3, 4)),
        _bad(
            "weight-dtype", TypeError, "weight", "torch.float64", weight=torch.ones(4, 3).double()
        ),
        _bad("bias-shape", ValueError, "bias", "(3,)", bias=torch.ones(3)),
        _bad("bias-dtype", TypeError, "bias", "torch.bfloat16", bias=torch.ones(4).bfloat16()),
        _bad("mask-tensor", TypeError, "mask", "Tensor", mask=torch.ones(4, 3)),
        _bad("weight-device", ValueError, "weight", "meta", weight=torch.ones(4, 3, device="meta")),
    ),
    rivals={"best_eager": _premasked, "anchor:unmasked": _unmasked, "outside:zuko": _zuko},
    reached=_reached,
)
