"""Sample inputs, workloads and rivals of `affine_coupling`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.affine_coupling import reference
from dgm_fast.ops.affine_coupling.api import affine_coupling

# In u = 2^-24, beside what `_amplified` adds. A log-scale is its map's function to at most 8, a
# quotient, a constant and a product: 11. So a scale is within 3 (exp) + 11 |log s|, and an element
# of y adds a sum, a product or quotient and a sum: 14 at most for either share.
_OF_OUTPUT = 14
# (grad_y s x + grad_log_det) d log s / du: the bracket as above with two products more, 16; the
# worst derivative, sigmoid sigmoid / scale, 6 + 6 + 7 and two: 21; the product with it, 1.
_OF_GRADIENT = 38

_Layout = Callable[[Tensor], Tensor]


def _as_given(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, -1).contiguous().transpose(1, -1)


def _sliced(tensor: Tensor) -> Tensor:
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


def _expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


def _checkerboard(event: tuple[int, ...]) -> Tensor:
    """Return the mask of the last two dims, to be broadcast over channels."""
    height, width = event[-2:]
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0


def _first_features(event: tuple[int, ...]) -> Tensor:
    return torch.arange(event[-1]) < event[-1] // 2


def _chunked(parameters: Tensor) -> tuple[Tensor, Tensor]:
    log_scale, shift = parameters.chunk(2, dim=1)
    return log_scale, shift


def _interleaved(parameters: Tensor) -> tuple[Tensor, Tensor]:
    return parameters[:, 1::2], parameters[:, 0::2]


def _apart(parameters: Tensor) -> tuple[Tensor, Tensor]:
    log_scale, shift = parameters.chunk(2, dim=1)
    return log_scale.contiguous(), shift.contiguous()


def _expanded_apart(parameters: Tensor) -> tuple[Tensor, Tensor]:
    log_scale, shift = _apart(parameters)
    return _expanded(log_scale), shift.mean(1, keepdim=True).expand_as(shift)


def _large(parameters: Tensor) -> tuple[Tensor, Tensor]:
    log_scale, shift = parameters.chunk(2, dim=1)
    return 25 * log_scale, 1000 * shift


def _case(
    name: str,
    shape: tuple[int, ...],
    moved: int | None = None,
    *,
    layout: Callable[[Tensor], tuple[Tensor, Tensor]] = _chunked,
    x_layout: _Layout = _as_given,
    mask: Callable[[tuple[int, ...]], Tensor] | None = None,
    additive: bool = False,
    scale: float = 1.0,
    parameter_dtype: torch.dtype | None = None,
    **options: Any,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        x = torch.randn(shape, generator=generator).to(device, dtype)
        if len(shape) > 1:
            channels = shape[1] if moved is None else moved
            parameters = torch.randn(shape[0], 2 * channels, *shape[2:], generator=generator)
            parameters = (scale * parameters).to(device, parameter_dtype or dtype)
            log_scale, shift = layout(parameters)
        else:
            log_scale, shift = torch.randn(2, *shape, generator=generator).to(device, dtype)

        return {
            "x": x_layout(x),
            "log_scale": None if additive else log_scale,
            "shift": shift,
            "mask": None if mask is None else mask(shape[1:]).to(device),
            **options,
        }

    differentiable = ("x", "shift") if additive else ("x", "log_scale", "shift")
    return OpCase(name, make, differentiable, _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, log_scale, shift = inputs["x"], inputs["log_scale"], inputs["shift"]
    data = x.numel() * x.element_size()
    parameters = shift.numel() * shift.element_size() * (1 if log_scale is None else 2)

    moved = 2 * data + parameters + 4 * x.shape[0]
    if backward:
        # Read grad_y, x and the parameters again; write a gradient of each.
        moved += 3 * data + 2 * parameters

    # The exponential and its map, some 30 operations; the backward again, and a few products.
    flops = (70 if backward else 30) * shift.numel()
    return Cost(moved, flops)


def _magnitude(
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    *,
    scale_map: str = "exp",
    bound: float | None = None,
    min_scale: float = 0,
    mask: Tensor | None = None,
    part: str = "last",
    shift_first: bool = False,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the absolute terms of y and log_det, such that its derivatives are those of theirs.

    All of them add: an inverse divides by the scale after the shift where the forward multiplies
    before it, so it is the other order.
    """
    scale = log_s = None
    if log_scale is not None:
        scale, log_s = _amplified(log_scale, scale_map, bound, min_scale, inverse)

        # The sum has a rounding for each of its terms, and y has not.
        log_s = log_s * ((_OF_OUTPUT + math.prod(log_s.shape[1:])) / _OF_OUTPUT)

    x, shift = (_series(each, each.detach().abs(), 1.0) for each in (x, shift))
    swapped = shift_first != inverse
    return reference.transform(x, scale, log_s, shift, mask, part, swapped, False)


def _amplified(
    log_scale: Tensor, scale_map: str, bound: float | None, min_scale: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Return what bounds the roundings of the scale, or its inverse, and of its logarithm.

    A rounding of log s by |log s| moves s by as much; that of u + 2 moves log s, and its
    derivatives by a share. Plain PyTorch takes 1 - tanh^2 and 1 - sigmoid from 1.
    """
    u = log_scale.detach().requires_grad_()
    with torch.enable_grad():
        _, log_s = reference.scale_of(u, scale_map, bound, min_scale)
        first, second = _derivatives(log_s, u)
    log_s = log_s.detach()
    scale = (-log_s if inverse else log_s).exp()

    subtracted_from = {"tanh": 1.0, "scaled_tanh": bound, "sigmoid": float(min_scale > 0)}
    first = first + subtracted_from.get(scale_map, 0.0)
    added = torch.zeros_like(log_s)
    if "sigmoid" in scale_map:
        added = u.detach().abs().nan_to_num(posinf=0.0) + 2
    of_logarithm = 1.0 if scale_map == "softplus" or min_scale > 0 else 0.0

    share = (1 + log_s.abs() + added) * scale
    scale = _series(log_scale, share, share * first, share * (first.square() + second))
    value = log_s.abs() + of_logarithm + first * added
    return scale, _series(log_scale, value, first * (1 + added), second * (1 + added))


def _series(x: Tensor, value: Tensor, slope: Tensor | float, curve: Tensor | float = 0.0) -> Tensor:
    """Return a function of x with this value and these two derivatives, finite where x is not."""
    step = torch.where(x.isfinite(), x - x.detach(), 0.0)
    slope, curve = (torch.as_tensor(each).nan_to_num() for each in (slope, curve))
    return value + slope * step + curve * step.square() / 2


def _derivatives(log_s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the absolute first and second derivatives of an elementwise function."""
    (first,) = torch.autograd.grad(log_s.sum(), u, create_graph=True)
    if not first.requires_grad:
        return first.abs(), torch.zeros_like(first)

    (second,) = torch.autograd.grad(first.sum(), u)
    return first.detach().abs(), second.abs()


def _best_eager(inputs: Inputs) -> Prepared:
    """Write what has no options by hand, with a product and sum in one call."""
    plain = {"scale_map": "exp", "mask": None, "shift_first": False, "inverse": False}
    if any(inputs.get(name, value) != value for name, value in plain.items()):
        raise ImportError("the reference is as good for this one")

    x, log_scale, shift = inputs["x"], inputs["log_scale"], inputs["shift"]
    still = x.shape[1] - shift.shape[1]

    def call() -> tuple[Tensor, Tensor]:
        y = torch.addcmul(shift, x[:, still:], log_scale.exp())
        y = torch.cat((x[:, :still], y), dim=1) if still else y
        return y, log_scale.flatten(1).sum(1)

    return Prepared(call, (x, log_scale, shift))


def _zuko(inputs: Inputs) -> Prepared:
    transforms = importlib.import_module("zuko.transforms")
    if inputs.get("scale_map") != "soft_clip" or inputs["x"].shape != inputs["shift"].shape:
        raise ImportError("zuko has the soft clip of all features")

    x, log_scale, shift = inputs["x"], inputs["log_scale"], inputs["shift"]
    slope = math.exp(-inputs["bound"])

    def call() -> tuple[Tensor, Tensor]:
        map_ = transforms.MonotonicAffineTransform(shift, log_scale, slope=slope)
        y, ladj = map_.call_and_ladj(x)
        return y, ladj.flatten(1).sum(1)

    return Prepared(call, (x, log_scale, shift))


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"x": torch.ones(2, 4, 3), "log_scale": torch.ones(2, 2, 3)}
        values = good | {"shift": torch.ones(2, 2, 3)} | changes
        return {key: _moved(value, device) for key, value in values.items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


def _with_batch(inputs: Inputs, size: int) -> Inputs:
    per_sample = {name: inputs[name] for name in ("x", "log_scale", "shift")}
    return inputs | {k: None if v is None else v[:size] for k, v in per_sample.items()}


_GLOW = {"scale_map": "sigmoid", "shift_first": True}
_NFLOWS = {"scale_map": "sigmoid", "min_scale": 1e-3}
_MAF = {"scale_map": "softplus", "min_scale": 1e-3}
_ZUKO = {"scale_map": "soft_clip", "bound": -math.log(1e-3)}

CASES = OpCases(
    function=affine_coupling,
    reference=reference.affine_coupling,
    cases=(
        _case("aligned", (16, 4, 8, 8), 2),
        _case("odd", (13, 5, 3, 7), 3, scale_map="tanh", bound=1.5),
        _case("empty-batch", (0, 4, 3, 3), 2),
        _case("no-elements", (3, 4, 0, 2), 2),
        _case("nothing-moved", (3, 4, 5), 0),
        _case("one", (1, 1)),
        _case("scalars", (11,)),
        _case("all-channels", (13, 12, 5)),
        _case("first-part", (13, 5, 6), 2, part="first", **_GLOW),
        _case("inverse", (13, 5, 6), 3, inverse=True),
        _case("inverse-first-part", (13, 5, 6), 3, part="first", inverse=True, **_GLOW),
        _case("additive", (13, 5, 6), 3, additive=True),
        _case("additive-inverse", (13, 5, 6), 3, additive=True, inverse=True, shift_first=True),
        _case("interleaved", (13, 6, 4, 5), 3, layout=_interleaved, **_GLOW),
        _case("checkerboard", (13, 3, 5, 4), mask=_checkerboard, scale_map="scaled_tanh", bound=2),
        _case("inverse-checkerboard", (13, 3, 5, 4), mask=_checkerboard, inverse=True),
        _case("feature-mask", (13, 37), mask=_first_features, **_MAF),
        _case("atan", (13, 37), scale_map="atan", bound=2.0),
        _case("inverse-soft-clip", (13, 37), inverse=True, layout=_apart, **_ZUKO),
        _case("nflows", (13, 10, 5), 5, **_NFLOWS),
        _case("inverse-nflows", (13, 10, 5), 5, inverse=True, **_NFLOWS),
        _case("reciprocal-sigmoid", (13, 37), scale_map="reciprocal_sigmoid"),
        _case("softplus", (13, 37), scale_map="softplus", scale=3.0),
        _case("inverse-clipped-softplus", (13, 37), inverse=True, bound=math.log(1.2), **_MAF),
        _case("transposed-x", (13, 6, 5), 3, x_layout=_transposed),
        _case("sliced-x", (13, 6, 5), 3, x_layout=_sliced, inverse=True),
        _case("expanded-x", (13, 6, 5), 6, x_layout=_expanded, **_GLOW),
        _case("expanded-parameters", (13, 6, 5), 3, layout=_expanded_apart),
        _case("pieces", (2, 3, 2501), 2),
        replace(_case("long-samples", (12, 3, 6001), 2), interpreted=False),
        _case("many-short", (600, 5), 3),
        _case("parameters-in-bfloat16", (13, 6, 5), 3, parameter_dtype=torch.bfloat16),
        _case("large-parameters", (13, 6, 5), 3, layout=_large),
        _case("large-sigmoid", (13, 6, 5), 3, scale=40.0, **_GLOW),
        _case("large-softplus", (13, 6, 5), 3, scale=30.0, scale_map="softplus"),
        _case("large-tanh", (13, 6, 5), 3, scale=100.0, scale_map="tanh", bound=3.0),
    ),
    terms=lambda inputs: (_OF_OUTPUT, _OF_GRADIENT),
    with_batch=_with_batch,
    magnitude=_magnitude,
    signed_magnitude=True,
    workloads=(
        _case("256x12x32x32-channels", (256, 12, 32, 32), 6),
        _case("256x12x32x32", (256, 12, 32, 32)),
        _case("256x12x32x32-glow", (256, 12, 32, 32), 6, layout=_interleaved, **_GLOW),
        _case("256x12x32x32-tanh", (256, 12, 32, 32), 6, scale_map="tanh", bound=2.0),
        _case("256x12x32x32-inverse", (256, 12, 32, 32), 6, inverse=True),
        _case("256x3x32x32-checkerboard", (256, 3, 32, 32), mask=_checkerboard),
        _case("4096x64-zuko", (4096, 64), **_ZUKO),
        _case("256x48x64x64-channels", (256, 48, 64, 64), 24),
        _case("100x2", (100, 2), 1),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "x", "list", x=[1.0]),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 4, 3, dtype=torch.long)),
        _bad("x-scalar", ValueError, "x", "()", x=torch.ones(())),
        _bad("shift-none", TypeError, "shift", "NoneType", shift=None),
        _bad("shift-batch", ValueError, "shift", "(3, 2, 3)", shift=torch.ones(3, 2, 3)),
        _bad("shift-event", ValueError, "shift", "(2, 2, 4)", shift=torch.ones(2, 2, 4)),
        _bad("shift-channels", ValueError, "shift", "(2, 5, 3)", shift=torch.ones(2, 5, 3)),
        _bad("shift-dims", ValueError, "shift", "(2, 2)", shift=torch.ones(2, 2)),
        _bad("shift-device", ValueError, "shift", "meta", shift=torch.ones(2, 2, 3, device="meta")),
        _bad("scale-shape", ValueError, "log_scale", "(2, 1, 3)", log_scale=torch.ones(2, 1, 3)),
        _bad(
            "scale-dtype",
            TypeError,
            "log_scale",
            "torch.float64",
            log_scale=torch.ones(2, 2, 3).double(),
        ),
        _bad("map-unknown", ValueError, "scale_map", "'elu'", scale_map="elu"),
        _bad("part-unknown", ValueError, "part", "'middle'", part="middle"),
        _bad("bound-missing", ValueError, "bound", "None", scale_map="tanh"),
        _bad("bound-negative", ValueError, "bound", "-1.0", scale_map="atan", bound=-1.0),
        _bad("bound-of-exp", ValueError, "bound", "2.0", bound=2.0),
        _bad("min-negative", ValueError, "min_scale", "-0.1", scale_map="sigmoid", min_scale=-0.1),
        _bad("min-of-exp", ValueError, "min_scale", "0.1", min_scale=0.1),
        _bad("mask-dtype", TypeError, "mask", "torch.float32", mask=torch.ones(3)),
        _bad("mask-shape", ValueError, "mask", "(4,)", mask=torch.ones(4, dtype=torch.bool)),
        _bad("mask-and-part", ValueError, "mask", "(2, 2, 3)", mask=torch.ones(3) > 0),
    ),
    rivals={"best_eager": _best_eager, "outside:zuko": _zuko},
)
