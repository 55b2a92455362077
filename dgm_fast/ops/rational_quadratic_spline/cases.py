"""Sample inputs, workloads and rivals of `rational_quadratic_spline`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.rational_quadratic_spline import reference, rounding
from dgm_fast.ops.rational_quadratic_spline.api import rational_quadratic_spline

# Widths, heights and derivatives, or all of them in the first's place.
_Parameters = tuple[Tensor, Tensor | None, Tensor | None]
_Layout = Callable[[Tensor, tuple[int, int, int]], _Parameters]


def _together(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    # A network's output.
    return parameters, None, None


def _split(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    widths, heights, derivatives = parameters.split(sizes, dim=-1)
    return widths, heights, derivatives


def _apart(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    widths, heights, derivatives = parameters.split(sizes, dim=-1)
    return widths.contiguous(), heights.contiguous(), derivatives.contiguous()


def _chunked(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    # Half of a network's output, whose other half is something else's.
    return _split(torch.cat((parameters, parameters), 1).chunk(2, dim=1)[1], sizes)


def _planes(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    # A convolution's output: the parameters of a pixel lie one image apart.
    return _split(parameters.movedim(-1, 1).contiguous().movedim(1, -1), sizes)


def _by_channel(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    # The same, but those of a channel before those of the next: elements lie unevenly.
    return parameters.movedim(-1, -3).contiguous().movedim(-3, -1), None, None


def _every_other(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    wide = parameters.repeat_interleave(2, dim=-1)
    return _split(wide[..., ::2], sizes)


def _expanded(parameters: Tensor, sizes: tuple[int, int, int]) -> _Parameters:
    return _split(parameters[:1].expand_as(parameters), sizes)


def _case(
    name: str,
    shape: tuple[int, ...],
    bins: int = 8,
    *,
    layout: _Layout = _split,
    shared: bool = False,
    transposed: bool = False,
    x_scale: float = 1.0,
    scale: float = 1.0,
    x_dtype: torch.dtype | None = None,
    **options: Any,
) -> OpCase:
    ends = 1 if options.get("tails", "linear") is None else -1

    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator).to(device, dtype)

        x = x_scale * draw(*shape).to(x_dtype or dtype)
        if transposed:
            x = x.movedim(0, -1).contiguous().movedim(-1, 0)

        parameters = scale * draw(*(shape[1:] if shared else shape), 3 * bins + ends)
        widths, heights, derivatives = layout(parameters, (bins, bins, bins + ends))
        tensors = {"x": x, "widths": widths, "heights": heights, "derivatives": derivatives}
        given = {key: each.detach() for key, each in tensors.items() if each is not None}
        return dict.fromkeys(tensors) | given | options

    apart = layout not in (_together, _by_channel)
    differentiable = ("x", "widths", *(("heights", "derivatives") if apart else ()))
    return OpCase(name, make, differentiable, _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, bins = inputs["x"], _bins(inputs)
    parameters = sum(0 if each is None else each.numel() for each in _arguments(inputs)[1:])
    moved = 2 * x.numel() + parameters
    if backward:
        # Read all again and grad_y; write a gradient for each.
        moved += 3 * x.numel() + 2 * parameters

    # An exponential is some 12 operations, a share's sum, knot and place in the bin 8, and the
    # bin's own arithmetic 100.
    operations = x.numel() * (2 * bins * 20 + 100)
    return Cost(moved * x.element_size() + 4 * len(x), operations * (3 if backward else 1))


def _bins(inputs: Inputs) -> int:
    columns = inputs["widths"].shape[-1]
    if inputs["heights"] is not None:
        return columns

    return reference.bin_count(columns, inputs.get("tails", "") is None)


def _arguments(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    return inputs["x"], inputs["widths"], inputs["heights"], inputs["derivatives"]


def _as_peers_take_them(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Three tensors, and a spline for each element.
    x, *parameters = _arguments(inputs)
    if parameters[1] is None:
        parameters = reference.split_columns(parameters[0], inputs.get("tails", "") is None)

    return x, *(each.expand(*x.shape, each.shape[-1]) for each in parameters)


def _leaves(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(each for each in _arguments(inputs) if each is not None)


def _peer(package: str, module: str) -> ModuleType:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed: `pip install {package}`")

    return importlib.import_module(f"{package}.{module}")


def _nflows(inputs: Inputs) -> Prepared:
    splines = _peer("nflows", "transforms.splines.rational_quadratic")
    if inputs.get("parametrization", "nflows") != "nflows":
        raise ImportError("nflows has no such parametrization")
    if inputs.get("tails", "linear") is None:
        raise ImportError("nflows refuses what is beyond the bounds of a spline without tails")

    options = {
        "inverse": inputs.get("inverse", False),
        "tails": "linear",
        "tail_bound": inputs.get("bound", 3.0),
        "min_bin_width": inputs.get("min_bin", 1e-3),
        "min_bin_height": inputs.get("min_bin", 1e-3),
        "min_derivative": inputs.get("min_derivative", 1e-3),
    }

    def call() -> tuple[Tensor, Tensor]:
        y, log_slope = splines.unconstrained_rational_quadratic_spline(
            *_as_peers_take_them(inputs), **options
        )
        return y, log_slope.sum(tuple(range(1, y.ndim))) if y.ndim > 1 else log_slope

    return Prepared(call, _leaves(inputs))


def _zuko(inputs: Inputs) -> Prepared:
    transforms = _peer("zuko", "transforms")
    if inputs.get("parametrization", "nflows") != "zuko":
        raise ImportError("zuko has no such parametrization")
    if inputs.get("tails", "linear") is None:
        raise ImportError("zuko has no spline without tails")

    inverse = inputs.get("inverse", False)
    options = {
        "bound": inputs.get("bound", 3.0),
        "slope": inputs.get("min_derivative", 1e-3),
    }

    def call() -> tuple[Tensor, Tensor]:
        x, *parameters = _as_peers_take_them(inputs)
        spline = transforms.MonotonicRQSTransform(*parameters, **options)
        y, log_slope = (spline.inv if inverse else spline).call_and_ladj(x)
        return y, log_slope.sum(tuple(range(1, y.ndim))) if y.ndim > 1 else log_slope

    return Prepared(call, _leaves(inputs))


def _with_batch(inputs: Inputs, size: int) -> Inputs:
    dims = inputs["x"].ndim
    whole = {"x": inputs["x"][:size]}
    for name in ("widths", "heights", "derivatives"):
        value = inputs[name]
        whole[name] = value if value is None or value.ndim == dims else value[:size]

    return inputs | whole


def _terms(inputs: Inputs) -> tuple[int, int]:
    count = rounding.terms(_bins(inputs))
    return count, count


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        sizes = {"widths": 4, "heights": 4, "derivatives": 3}
        good = {name: torch.ones(2, 3, size) for name, size in sizes.items()}
        inputs = {"x": torch.ones(2, 3)} | good | changes
        return {
            key: value.to(device) if isinstance(value, Tensor) and not value.is_meta else value
            for key, value in inputs.items()
        }

    return BadInput(name, make, error, names, shows)


CASES = OpCases(
    function=rational_quadratic_spline,
    reference=reference.rational_quadratic_spline,
    cases=(
        _case("aligned", (16, 32)),
        _case("odd", (7, 13), 5),
        _case("no-samples", (0, 13)),
        _case("no-elements", (5, 0)),
        _case("one", (1, 1)),
        _case("scalars", (21,), layout=_apart),
        _case("images", (2, 3, 4, 5), 4, layout=_planes),
        _case("one-bin", (7, 13), 1, layout=_apart),
        _case("two-bins", (7, 13), 2),
        replace(_case("many", (70, 41), 10, layout=_apart), interpreted=False),
        _case("tiles", (9, 41), 10, layout=_apart),
        _case("sixteen-bins", (5, 17), 16),
        _case("many-bins", (3, 17), 37),
        _case("long-samples", (2, 900), 3),
        _case("chunked-parameters", (7, 12), layout=_chunked),
        _case("sliced-parameters", (7, 13), layout=_every_other),
        _case("together", (7, 13), layout=_together),
        _case("together-bounded", (7, 13), 5, layout=_together, tails=None, x_scale=2.0),
        _case("images-together", (3, 2, 4, 5), 4, layout=_by_channel),
        _case("shared", (19, 13), shared=True),
        _case("shared-long", (5, 300), 3, shared=True),
        _case("shared-chunks", (220, 3), layout=_together, shared=True),
        replace(_case("shared-many", (700, 3), layout=_together, shared=True), interpreted=False),
        _case("shared-inverse", (17, 13), 5, shared=True, inverse=True, x_scale=2.0),
        _case("shared-bounded", (17, 3), shared=True, tails=None, x_scale=2.0),
        _case("shared-zuko", (9, 13), layout=_together, shared=True, parametrization="zuko"),
        _case("shared-images", (6, 3, 4, 5), 4, layout=_by_channel, shared=True),
        _case("shared-one-sample", (1, 13), shared=True),
        _case("shared-no-samples", (0, 13), shared=True),
        _case("shared-uneven", (17, 13), shared=True, x_scale=2.0, scale=5.0),
        _case("expanded-parameters", (7, 13), layout=_expanded),
        _case("transposed-x", (7, 13), transposed=True),
        _case("inverse", (17, 13), inverse=True),
        _case("inverse-odd", (5, 7), 5, layout=_apart, inverse=True),
        _case("tails", (17, 13), x_scale=4.0),
        _case("inverse-tails", (17, 13), x_scale=4.0, inverse=True),
        _case("bounded", (17, 13), tails=None),
        _case("bounded-one-bin", (7, 13), 1, tails=None),
        _case("bounded-beyond", (7, 13), 5, x_scale=4.0, tails=None),
        _case("inverse-bounded", (17, 13), 10, tails=None, inverse=True, layout=_apart),
        _case("inverse-bounded-beyond", (7, 13), x_scale=4.0, tails=None, inverse=True),
        _case("zuko", (17, 13), parametrization="zuko"),
        _case("inverse-zuko", (17, 13), parametrization="zuko", inverse=True),
        _case("bounded-zuko", (7, 13), 5, x_scale=2.0, parametrization="zuko", tails=None),
        _case("narrow", (7, 13), x_scale=0.3, bound=0.5, min_bin=0.05, min_derivative=0.1),
        _case("equal-bins", (7, 13), 4, min_bin=0.25),
        _case("uneven", (17, 13), x_scale=2.0, scale=5.0),
        _case("inverse-uneven", (17, 13), x_scale=2.0, scale=5.0, inverse=True),
        _case("extreme", (17, 13), x_scale=2.0, scale=200.0),
        _case("inverse-extreme", (17, 13), x_scale=2.0, scale=200.0, inverse=True),
        _case("extreme-zuko", (17, 13), x_scale=2.0, scale=200.0, parametrization="zuko"),
        _case("x-in-float32", (7, 13), x_dtype=torch.float32),
        _case("far", (7, 13), x_scale=1e4),
    ),
    terms=_terms,
    with_batch=_with_batch,
    magnitude=rounding.magnitude,
    signed_magnitude=True,
    workloads=(
        _case("4096x32", (4096, 32)),
        _case("4096x32-inverse", (4096, 32), inverse=True),
        _case("4096x32-apart", (4096, 32), layout=_apart),
        _case("4096x32-zuko", (4096, 32), parametrization="zuko"),
        _case("4096x32-16-bins", (4096, 32), 16),
        _case("4096x32-together", (4096, 32), layout=_together),
        _case("4096x32-shared", (4096, 32), shared=True),
        _case("64x12x16x16-planes", (64, 12, 16, 16), layout=_planes),
        _case("512x2", (512, 2)),
        _case("65536x32", (65536, 32)),
    ),
    bad_inputs=(
        _bad("x-scalar", ValueError, "x", "()", x=torch.ones(())),
        _bad("x-integer", TypeError, "x", "torch.int64", x=torch.ones(2, 3, dtype=torch.long)),
        _bad("x-list", TypeError, "x", "list", x=[1.0, 2.0]),
        _bad("widths-none", TypeError, "widths", "NoneType", widths=None),
        _bad("widths-shape", ValueError, "widths", "(3, 2, 4)", widths=torch.ones(3, 2, 4)),
        _bad("no-bins", ValueError, "widths", "(2, 3, 0)", widths=torch.ones(2, 3, 0)),
        _bad("heights-shape", ValueError, "heights", "(2, 3, 5)", heights=torch.ones(2, 3, 5)),
        _bad(
            "heights-dtype",
            TypeError,
            "heights",
            "torch.float16",
            heights=torch.ones(2, 3, 4).half(),
        ),
        _bad("knots", ValueError, "derivatives", "(2, 3, 5)", derivatives=torch.ones(2, 3, 5)),
        _bad("bounded-knots", ValueError, "derivatives", "(2, 3, 3)", tails=None),
        _bad("heights-none", TypeError, "heights", "NoneType", heights=None),
        _bad("heights-shared", ValueError, "heights", "(3, 4)", heights=torch.ones(3, 4)),
        _bad(
            "together-shape",
            ValueError,
            "widths",
            "(2, 3, 4)",
            heights=None,
            derivatives=None,
        ),
        _bad("device", ValueError, "heights", "meta", heights=torch.ones(2, 3, 4, device="meta")),
        _bad("tails", ValueError, "tails", "'circular'", tails="circular"),
        _bad("parametrization", ValueError, "parametrization", "'pyro'", parametrization="pyro"),
        _bad("bound", ValueError, "bound", "-1.0", bound=-1.0),
        _bad("bound-nan", ValueError, "bound", "nan", bound=float("nan")),
        _bad("min-bin", ValueError, "min_bin", "0.3", min_bin=0.3),
        _bad("min-derivative", ValueError, "min_derivative", "0.0", min_derivative=0.0),
    ),
    rivals={"outside:nflows": _nflows, "outside:zuko": _zuko},
)
