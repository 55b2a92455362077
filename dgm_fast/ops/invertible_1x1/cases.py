"""Sample inputs, workloads and rivals of `invertible_1x1`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.invertible_1x1 import reference
from dgm_fast.ops.invertible_1x1.api import invertible_1x1
from dgm_fast.ops.invertible_1x1.factors import PLU

_Layout = Callable[[Tensor], Tensor]
_FACTORS = ("lower", "upper", "log_diag")


def _apply(
    x: Tensor,
    log_scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    inverse: bool = False,
    impl: str = "auto",
    log_abs_det: Tensor | None = None,
    **weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Call the public function with the factors as arguments of their own."""
    return invertible_1x1(
        x,
        _joined(weight),
        log_scale,
        shift,
        log_abs_det=log_abs_det,
        inverse=inverse,
        impl=impl,
    )


def _reference(x: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
    names = ("log_scale", "shift", "log_abs_det", "inverse")
    options = {name: rest.pop(name) for name in names if name in rest}
    return reference.invertible_1x1(x, _joined(rest), **options)


def _joined(weight: dict[str, Tensor]) -> Tensor | PLU:
    return weight["weight"] if "weight" in weight else PLU(**weight)


def _published(
    x: Tensor,
    log_scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    inverse: bool = False,
    log_abs_det: Tensor | None = None,
    **weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Normalise, assemble the weight or its inverse, and convolve, as published models do."""
    joined = _joined(weight)
    full = joined.weight() if isinstance(joined, PLU) else joined
    known = joined.log_diag.sum() if isinstance(joined, PLU) else log_abs_det
    log_det = torch.linalg.slogdet(full).logabsdet if known is None else known
    each = (-1, *[1] * (x.ndim - 2))

    if log_scale is not None:
        log_det = log_det + log_scale.sum()
    if not inverse:
        x = x if shift is None else x + shift.view(each)
        x = x if log_scale is None else x * log_scale.exp().view(each)

    y = _convolve(x, torch.linalg.inv(full) if inverse else full)
    if inverse:
        y = y if log_scale is None else y * (-log_scale).exp().view(each)
        y = y if shift is None else y - shift.view(each)
        log_det = -log_det

    return y, (math.prod(x.shape[2:]) * log_det).expand(x.shape[0])


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    if x.ndim == 2:
        return F.linear(x, weight)

    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    return convolve(x, weight.view(*weight.shape, *[1] * (x.ndim - 2)))


def _best_eager(inputs: Inputs) -> Prepared:
    leaves = [
        value for value in inputs.values() if isinstance(value, Tensor) and value.requires_grad
    ]
    return Prepared(lambda: _reference(**inputs), tuple(leaves))


def _magnitude(
    x: Tensor,
    log_scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    inverse: bool = False,
    log_abs_det: Tensor | None = None,
    **weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sum the absolute values of the terms; a triangular solve's are those of back substitution.

    Solving with |D| - |T| for a triangle D + T, every product of the substitution is added, none
    subtracted (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 8.2). All
    derivatives are positive: nothing cancels in those of them either.
    """
    shape = (x.shape[0], *x.shape[2:])
    columns = _absolute(x).movedim(1, 0).flatten(1)
    added = x.new_zeros(x.shape[1], 1) if shift is None else _absolute(shift)[:, None]
    scale = torch.ones_like(added)
    log_det = x.new_zeros(())
    if log_scale is not None:
        scale = _exp(log_scale, -1 if inverse else 1)[:, None]
        log_det = log_det + _absolute(log_scale).sum()

    joined = _joined(weight)
    if not isinstance(joined, PLU):
        log_det = log_det + _log_abs_det(joined, log_abs_det)
    else:
        log_det = log_det + _absolute(joined.log_diag).sum()

    if inverse:
        factors = joined if isinstance(joined, PLU) else PLU.from_weight(joined)
        y = _substitute(factors, columns) * scale + added
    else:
        full = _product(joined) if isinstance(joined, PLU) else _absolute(joined)
        y = full @ (scale * (columns + added))

    log_det = math.prod(x.shape[2:]) * log_det
    return y.unflatten(1, shape).movedim(0, 1), log_det.expand(x.shape[0])


def _absolute(values: Tensor) -> Tensor:
    """Return |v|, with derivatives 1."""
    return values.detach().abs() + (values - values.detach())


def _exp(values: Tensor, sign: int) -> Tensor:
    """Return e^v or e^-v, with positive derivatives."""
    return (sign * values.detach()).exp() * (values - values.detach()).exp()


def _product(factors: PLU) -> Tensor:
    eye = torch.eye(factors.lower.shape[0]).to(factors.lower)
    lower = _absolute(factors.lower).tril(-1) + eye
    upper = _absolute(factors.upper).triu(1) + _exp(factors.log_diag, 1).diag()
    return (lower @ upper).index_select(0, factors.permutation)


def _substitute(factors: PLU, columns: Tensor) -> Tensor:
    eye = torch.eye(factors.lower.shape[0]).to(factors.lower)
    over = _exp(factors.log_diag, -1)[:, None]
    lower = eye - _absolute(factors.lower).tril(-1)
    upper = eye - over * _absolute(factors.upper).triu(1)
    columns = columns[factors.permutation.argsort()]
    columns = torch.linalg.solve_triangular(lower, columns, upper=False)
    return torch.linalg.solve_triangular(upper, over * columns, upper=True)


def _log_abs_det(weight: Tensor, given: Tensor | None) -> Tensor:
    """Return |log |det W||, whose derivatives by W are |W^-T|, and of these |W^-T| |W^-1|."""
    if given is not None:
        return _absolute(given)

    # Of a matrix with an infinity some devices' routine says that it is singular.
    slopes = torch.linalg.inv_ex(weight.detach()).inverse.abs()
    value = torch.linalg.slogdet(weight.detach()).logabsdet.abs()
    step = slopes @ (weight - weight.detach())
    return value + step.trace() + 0.5 * (step @ step).trace()


def _case(
    name: str,
    shape: tuple[int, ...],
    *,
    full: bool = False,
    known: bool = False,
    normalised: bool = True,
    inverse: bool = False,
    layout: _Layout = lambda x: x,
    x_scale: float = 1.0,
    log_range: float = 0.3,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        channels = shape[1]

        def draw(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator)

        rotation = torch.linalg.qr(draw(channels, channels)).Q
        weight = rotation + 0.1 * channels**-0.5 * draw(channels, channels)
        factors = PLU.from_weight(weight)
        factors = factors._replace(log_diag=factors.log_diag + log_range * draw(channels))
        tensors = {"weight": factors.weight()} if full else factors._asdict()
        if known:
            tensors["log_abs_det"] = torch.linalg.slogdet(factors.weight()).logabsdet
        if normalised:
            tensors |= {"log_scale": log_range * draw(channels), "shift": x_scale * draw(channels)}

        tensors["x"] = layout((x_scale * draw(*shape)).to(device, dtype))
        inputs = {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in tensors.items()
        }
        return {**inputs, "inverse": inverse}

    leaves = ("x", *(("weight",) if full else _FACTORS))
    leaves += ("log_abs_det",) if known else ()
    leaves += ("log_scale", "shift") if normalised else ()
    return OpCase(name, make, leaves, _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x = inputs["x"]
    streams = 5 if backward else 2
    products = 3 if backward else 1
    return Cost(streams * x.numel() * x.element_size(), products * 2 * x.numel() * x.shape[1])


def _terms(inputs: Inputs) -> tuple[int, int]:
    x = inputs["x"]
    channels = x.shape[1]
    # On the way to an element: the product of the factors and that with the pixels, or two
    # substitutions, whose roundings telescope to 2 C each; six of an exponential and its product.
    forward = (4 if inputs["inverse"] else 2) * channels + 16
    # A gradient sums over all pixels, then passes through the factors.
    return forward, x.numel() // channels + 2 * forward + channels


def _half_of(x: Tensor) -> Tensor:
    return torch.cat((x, x), dim=1).chunk(2, dim=1)[1]


def _every_other(x: Tensor) -> Tensor:
    return torch.stack((x, x), dim=-1)[..., 0]


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"x": torch.ones(2, 3, 4, 4), **PLU.from_weight(torch.eye(3))._asdict()}
        if "weight" in changes:
            good = {"x": good["x"]}

        inputs = good | {"log_scale": torch.ones(3), "shift": torch.ones(3)} | changes
        return {key: _moved(value, device) for key, value in inputs.items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


CASES = OpCases(
    function=_apply,
    reference=_reference,
    cases=(
        _case("aligned", (4, 16, 8, 8)),
        _case("odd", (3, 7, 5, 3)),
        _case("inverse", (4, 16, 8, 8), inverse=True),
        _case("inverse-odd", (3, 7, 5, 3), inverse=True),
        _case("plain", (3, 6, 5, 3), normalised=False),
        _case("inverse-plain", (3, 6, 5, 3), normalised=False, inverse=True),
        _case("full", (3, 6, 5, 3), full=True),
        _case("full-known", (3, 6, 5, 3), full=True, known=True, normalised=False),
        _case("full-inverse", (3, 6, 5, 3), full=True, inverse=True),
        _case("vectors", (37, 13)),
        _case("vectors-inverse", (37, 13), inverse=True),
        _case("sequences", (3, 6, 11)),
        _case("volumes", (2, 5, 3, 4, 2)),
        _case("one", (1, 1, 1, 1)),
        _case("one-channel", (3, 1, 4, 5), inverse=True),
        _case("one-pixel", (35, 5, 1, 1)),
        _case("tiles-of-channels", (2, 35, 5, 3)),
        _case("tiles-of-channels-inverse", (2, 35, 5, 3), inverse=True),
        replace(_case("many-channels", (2, 96, 5, 7)), interpreted=False),
        replace(_case("many-channels-inverse", (2, 96, 5, 7), inverse=True), interpreted=False),
        _case("tiles-of-pixels", (2, 12, 13, 21)),
        replace(_case("many-pixels", (3, 12, 37, 41)), interpreted=False),
        replace(_case("many-pixels-inverse", (3, 12, 37, 41), inverse=True), interpreted=False),
        _case("many-samples", (260, 4, 3, 3)),
        _case("empty-batch", (0, 5, 4, 4)),
        _case("empty-batch-inverse", (0, 5, 4, 4), inverse=True),
        _case("no-pixels", (3, 5, 0)),
        _case("channels-last", (3, 20, 4, 5), layout=layouts.channels_last),
        _case("channels-last-inverse", (3, 20, 4, 5), layout=layouts.channels_last, inverse=True),
        _case("half-of-channels", (3, 6, 5, 7), layout=_half_of),
        _case("every-other-pixel", (3, 6, 5, 7), layout=_every_other),
        _case("expanded", (3, 6, 5, 7), layout=layouts.expanded),
        _case("transposed", (3, 6, 5, 7), layout=_transposed),
        _case("transposed-vectors", (19, 6), layout=_transposed),
        _case("large-x", (3, 6, 5, 3), x_scale=1e4),
        _case("large-logs", (3, 6, 5, 3), log_range=3.0),
        _case("large-logs-inverse", (3, 6, 5, 3), log_range=3.0, inverse=True),
    ),
    terms=_terms,
    magnitude=_magnitude,
    signed_magnitude=True,
    with_batch=lambda inputs, size: {
        **inputs,
        "x": inputs["x"][:1].repeat(size, *[1] * (inputs["x"].ndim - 1)),
    },
    workloads=(
        _case("256x12x32x32", (256, 12, 32, 32)),
        _case("256x24x16x16", (256, 24, 16, 16)),
        _case("256x48x8x8", (256, 48, 8, 8)),
        _case("256x12x32x32-inverse", (256, 12, 32, 32), inverse=True),
        _case("256x48x8x8-inverse", (256, 48, 8, 8), inverse=True),
        _case("64x4x14x14", (64, 4, 14, 14)),
        _case("4096x64", (4096, 64)),
        _case("128x96x16x16-full", (128, 96, 16, 16), full=True),
    ),
    bad_inputs=(
        _bad("x-vector", ValueError, "x", "(3,)", x=torch.ones(3)),
        _bad("x-no-channels", ValueError, "x", "(2, 0)", x=torch.ones(2, 0)),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 3, dtype=torch.long)),
        _bad("weight-shape", ValueError, "weight", "(3, 4)", weight=torch.ones(3, 4)),
        _bad("weight-size", ValueError, "weight", "(4, 4)", weight=torch.eye(4)),
        _bad("weight-list", TypeError, "weight", "list", weight=[[1.0]]),
        _bad("weight-device", ValueError, "weight", "meta", weight=torch.ones(3, 3, device="meta")),
        _bad("lower-shape", ValueError, "lower", "(2, 3)", lower=torch.ones(2, 3)),
        _bad("upper-integer", TypeError, "upper", "torch.int64", upper=torch.eye(3).long()),
        _bad("log_diag-shape", ValueError, "log_diag", "(3, 1)", log_diag=torch.ones(3, 1)),
        _bad("sign-shape", ValueError, "sign", "()", sign=torch.tensor(1.0)),
        _bad("permutation-dtype", TypeError, "permutation", "float", permutation=torch.ones(3)),
        _bad("log_scale-shape", ValueError, "log_scale", "(4,)", log_scale=torch.ones(4)),
        _bad("shift-shape", ValueError, "shift", "(1,)", shift=torch.ones(1)),
        _bad("log_abs_det-factors", ValueError, "log_abs_det", "None", log_abs_det=torch.ones(())),
        _bad(
            "log_abs_det-shape",
            ValueError,
            "log_abs_det",
            "(2,)",
            weight=torch.eye(3),
            log_abs_det=torch.ones(2),
        ),
    ),
    rivals={"best_eager": _best_eager},
    baseline=_published,
)
