"""Sample inputs, workloads, baseline and rivals of `diffusion_loss`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast._core.philox import NORMAL_ROUNDINGS, normals, normals_magnitude
from dgm_fast._core.random import as_seed
from dgm_fast._core.schedule import as_values, cosine_tables, per_sample
from dgm_fast.ops.diffusion_loss.api import diffusion_loss

_Layout = Callable[[Tensor], Tensor]
_STEPS = 1000


def _case(
    name: str,
    shape: tuple[int, ...],
    target: str = "noise",
    *,
    scale: float = 1.0,
    layout: _Layout = layouts.as_given,
    step_dtype: torch.dtype = torch.int64,
    x0_dtype: torch.dtype | None = None,
    weighted: bool = False,
    given: bool = False,
    **options: int,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw() -> Tensor:
            return scale * torch.randn(shape, generator=generator)

        def place(values: Tensor, dtype: torch.dtype) -> Tensor:
            return layout(values.to(device, dtype)).detach()

        alpha, sigma = cosine_tables(_STEPS, device)
        seed = int(torch.randint(2**62, (), generator=generator))
        steps = torch.randint(_STEPS, shape[:1], generator=generator, dtype=step_dtype)
        inputs: Inputs = {"t": steps.to(device), "alpha": alpha, "sigma": sigma, "seed": seed}
        inputs |= {"prediction": place(draw(), dtype), "target": target, **options}
        if x0_dtype is torch.uint8:
            inputs["x0"] = place(torch.randint(256, shape, generator=generator), torch.uint8)
        else:
            inputs["x0"] = place(draw(), x0_dtype or dtype)
        if weighted:
            inputs["weight"] = (alpha / sigma).square().clamp_max(5.0)
        if given:
            inputs["noise"] = place(draw(), dtype)

        return inputs

    # The noise is the target that x0 has no part in.
    both = target != "noise" and x0_dtype is not torch.uint8
    return OpCase(name, make, ("prediction", "x0") if both else ("prediction",), _cost)


def _drawn(inputs: Inputs, draw: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
    """Return the noise of a call, or what `draw` makes of where it comes from."""
    if inputs.get("noise") is not None:
        return inputs["noise"]

    x0, where = inputs["x0"], (inputs.get("sample_offset", 0), inputs.get("stream", 0))
    return draw(as_seed(inputs["seed"], x0.device), x0.shape, *where, dtype)


def _magnitude(**inputs: Any) -> Tensor:
    """Return the weighted mean of (|prediction| + |target|)^2.

    |target| is the sum of its absolute terms, with what its own roundings are relative to for a
    normal. Takes the absolute values of all tensors, in float64.
    """
    x0, target = inputs["x0"], inputs["target"]
    value = as_values(x0, torch.float64)
    value = value.abs() if x0.dtype is torch.uint8 else value
    noise = _drawn(inputs, normals_magnitude, torch.float64)
    alpha, sigma = (
        per_sample(inputs[name][inputs["t"]], value, torch.float64) for name in ("alpha", "sigma")
    )

    targets = {"noise": noise, "x0": value, "velocity": alpha * noise + sigma * value}
    error = (inputs["prediction"] + targets[target]).reshape(x0.shape[0], math.prod(x0.shape[1:]))
    mean = error.square().mean(1)
    return mean if inputs.get("weight") is None else inputs["weight"][inputs["t"]] * mean


def _plain(
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    weight: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    **where: Any,
) -> Tensor:
    """Compute the loss as one would in plain PyTorch that has not stored the target either."""
    if x0.dtype is torch.uint8:
        x0 = x0.float() / 127.5 - 1

    noise = torch.randn_like(x0) if noise is None else noise
    dims = (-1, *(1 for _ in x0.shape[1:]))
    if target == "velocity":
        wanted = alpha[t].view(dims) * noise - sigma[t].view(dims) * x0
    else:
        wanted = noise if target == "noise" else x0

    mean = (prediction.float() - wanted.float()).square().flatten(1).mean(1)
    return mean if weight is None else weight[t] * mean


def _stored(inputs: Inputs) -> Prepared:
    # Plain PyTorch would rather store the noise than draw it twice: memory for time.
    noise = _drawn(inputs, normals, torch.float32)
    call = partial(_plain, **inputs | {"noise": noise})
    leaves = [inputs[name] for name in ("prediction", "x0") if inputs[name].requires_grad]
    return Prepared(call, tuple(leaves))


def _cost(inputs: Inputs, backward: bool) -> Cost:
    prediction, x0, target = inputs["prediction"], inputs["x0"], inputs["target"]
    drawn = target != "x0" and inputs.get("noise") is None
    read = prediction.element_size()
    read += x0.element_size() if target != "noise" else 0
    read += prediction.element_size() if target != "x0" and not drawn else 0
    # A normal takes some 40 operations (README of philox), difference, square and sum 3.
    operations = (40 if drawn else 0) + (3 if target == "velocity" else 0) + 3
    if backward:
        written = prediction.element_size()
        written += x0.element_size() if target != "noise" and x0.is_floating_point() else 0
        read, operations = 2 * read + written, 2 * operations

    return Cost(x0.numel() * read, x0.numel() * operations)


def _terms(inputs: Inputs) -> tuple[int, int]:
    # The target: a normal's own, its product, x0's and a byte's two, their sum; the difference, the
    # square of all these and its rounding; the sum, its division and the weight.
    elements = inputs["x0"].numel() // max(1, inputs["x0"].shape[0])
    difference = NORMAL_ROUNDINGS + 5
    return elements + 2 * difference + 3, difference + 4


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        alpha, sigma = cosine_tables(10, device)
        x0, t = torch.ones(2, 3, device=device), torch.tensor([0, 9], device=device)
        good = {"prediction": x0, "x0": x0, "t": t, "alpha": alpha, "sigma": sigma, "seed": 0}
        return good | changes

    return BadInput(name, make, error, names, shows)


CASES = OpCases(
    function=diffusion_loss,
    reference=partial(diffusion_loss, impl="reference"),
    cases=(
        _case("aligned", (8, 64)),
        _case("odd", (7, 13), weighted=True),
        _case("images-velocity", (3, 3, 5, 7), "velocity", weighted=True),
        _case("images-x0", (3, 3, 5, 7), "x0", weighted=True),
        _case("scalars", (11,), "velocity"),
        _case("one", (1, 1), "velocity"),
        _case("no-samples", (0, 13), "velocity"),
        _case("no-samples-noise", (0, 13)),
        _case("tiles", (3, 2051), "velocity", weighted=True),
        replace(_case("many", (66, 1027), "velocity"), interpreted=False),
        replace(_case("one-long-sample", (1, 40_003), weighted=True), interpreted=False),
        _case("noise-given", (7, 13), given=True),
        _case("velocity-of-noise-given", (7, 270), "velocity", given=True),
        _case("bytes", (7, 3, 5, 7), x0_dtype=torch.uint8),
        _case("bytes-velocity", (7, 270), "velocity", x0_dtype=torch.uint8),
        _case("bytes-x0", (7, 270), "x0", x0_dtype=torch.uint8),
        _case("float32-x0", (7, 270), "velocity", x0_dtype=torch.float32),
        _case("large", (7, 13), "velocity", scale=1e4),
        _case("tiny", (7, 13), "velocity", scale=1e-4),
        _case("chunked", (7, 6, 5), "velocity", layout=layouts.chunked, given=True),
        _case("transposed", (7, 13), "velocity", layout=layouts.transposed, given=True),
        _case("sliced", (7, 13), "velocity", layout=layouts.sliced, given=True),
        _case("expanded", (7, 13), "velocity", layout=layouts.expanded),
        _case("int32-steps", (7, 13), weighted=True, step_dtype=torch.int32),
        _case("far-offset", (5, 18), sample_offset=2**33 - 2, stream=2**32 - 1),
    ),
    terms=_terms,
    with_batch=lambda inputs, size: (
        inputs
        | {
            name: inputs[name][:size]
            for name in ("prediction", "x0", "t", "noise")
            if name in inputs
        }
    ),
    magnitude=_magnitude,
    workloads=(
        _case("256x3x64x64", (256, 3, 64, 64)),
        _case("256x3x64x64-velocity", (256, 3, 64, 64), "velocity"),
        _case("256x3x64x64-noise-given", (256, 3, 64, 64), given=True),
        _case("128x1x28x28", (128, 1, 28, 28)),
        _case("8x64", (8, 64)),
        replace(_case("64x3x256x256", (64, 3, 256, 256)), devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("prediction-list", TypeError, "prediction", "list", prediction=[1.0]),
        _bad("prediction-shape", ValueError, "prediction", "(3, 2)", prediction=torch.ones(3, 2)),
        _bad(
            "prediction-device",
            ValueError,
            "prediction",
            "meta",
            prediction=torch.ones(2, 3, device="meta"),
        ),
        _bad("x0-integer", TypeError, "x0", "torch.int64", x0=torch.ones(2, 3).long()),
        _bad("x0-scalar", ValueError, "x0", "()", x0=torch.ones(())),
        _bad("t-int", TypeError, "t", "int", t=3),
        _bad("t-shape", ValueError, "t", "(3,)", t=torch.zeros(3).long()),
        _bad("t-beyond", ValueError, "t", "10", t=torch.tensor([0, 10])),
        _bad("alpha-half", TypeError, "alpha", "torch.float16", alpha=torch.ones(10).half()),
        _bad("sigma-shape", ValueError, "sigma", "(9,)", sigma=torch.ones(9)),
        _bad("target", ValueError, "target", "'score'", target="score"),
        _bad("weight-shape", ValueError, "weight", "(2,)", weight=torch.ones(2)),
        _bad("weight-integer", TypeError, "weight", "torch.int64", weight=torch.ones(10).long()),
        _bad("noise-shape", ValueError, "noise", "(3, 2)", noise=torch.ones(3, 2)),
        _bad("no-seed", ValueError, "seed", "None", seed=None),
        _bad("seed-float", TypeError, "seed", "float", seed=0.5),
        _bad("negative-offset", ValueError, "sample_offset", "-1", sample_offset=-1),
        _bad("far-stream", ValueError, "stream", str(2**32), stream=2**32),
    ),
    rivals={"best_eager": _stored},
    baseline=_plain,
    noise=lambda inputs: {"noise": _drawn(inputs, normals, torch.float32)},
)
