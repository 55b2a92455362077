"""Sample inputs, workloads and baseline of `ddpm_step` and `ddim_step`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core import layouts
from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases
from dgm_fast._core.philox import NORMAL_ROUNDINGS, normals, normals_magnitude
from dgm_fast._core.random import as_seed
from dgm_fast._core.schedule import cosine_tables, per_sample
from dgm_fast.ops.diffusion_step import reference
from dgm_fast.ops.diffusion_step.api import ddim_step, ddpm_step

_Layout = Callable[[Tensor], Tensor]
_STEPS = 1000

# On the way to a coefficient, as the lemma in kernels.py counts them; one where it is float64's.
_COEFFICIENT_ROUNDINGS = 38

_STEP = {"ddpm": ddpm_step, "ddim": ddim_step}
_EACH = ("x_t", "prediction", "prediction_unconditional", "noise")


def _step(kind: str, **inputs: Any) -> Tensor:
    """Run either public function, so that one table of cases holds both."""
    return _STEP[kind](**inputs)


def _case(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    target: str = "noise",
    *,
    t: int | None = None,
    s: str | int | None = None,
    guided: bool = False,
    given: bool = False,
    layout: _Layout = layouts.as_given,
    prediction_dtype: torch.dtype | None = None,
    step_dtype: torch.dtype = torch.int64,
    scale: float = 1.0,
    **options: Any,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(dtype: torch.dtype) -> Tensor:
            values = scale * torch.randn(shape, generator=generator)
            return layout(values.to(device, dtype)).detach()

        alpha, sigma = cosine_tables(_STEPS, device)
        steps = torch.randint(_STEPS, shape[:1], generator=generator, dtype=step_dtype)
        steps[:2] = torch.tensor([0, _STEPS - 1])[: shape[0]]
        inputs: Inputs = {"kind": kind, "target": target, "alpha": alpha, "sigma": sigma, **options}
        inputs |= {"x_t": draw(dtype), "prediction": draw(prediction_dtype or dtype)}
        inputs["t"] = steps.to(device) if t is None else t
        if kind == "ddpm" or options.get("eta", 0) > 0:
            inputs["seed"] = int(torch.randint(2**62, (), generator=generator))
        if s == "half":
            inputs["s"] = steps.to(device) // 2 - 1
        elif s is not None:
            inputs["s"] = s
        if guided:
            inputs |= {"prediction_unconditional": draw(prediction_dtype or dtype)}
        if given:
            inputs["noise"] = draw(dtype)

        return inputs

    both = ("x_t", "prediction")
    return OpCase(name, make, (*both, "prediction_unconditional") if guided else both, _cost)


def _draws(inputs: Inputs) -> bool:
    return inputs["kind"] == "ddpm" or inputs.get("eta", 0) > 0


def _drawn(inputs: Inputs, draw: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
    """Return the noise of a call, or what `draw` makes of where it comes from."""
    if inputs.get("noise") is not None:
        return inputs["noise"]

    x, where = inputs["x_t"], (inputs.get("sample_offset", 0), inputs.get("stream", 0))
    return draw(as_seed(inputs["seed"], x.device), x.shape, *where, dtype)


def _noise(inputs: Inputs) -> Inputs:
    return {"noise": _drawn(inputs, normals, inputs["x_t"].dtype)} if _draws(inputs) else {}


def _magnitude(**inputs: Any) -> Tensor:
    """Return the sum of the absolute terms that a step adds."""
    x, t, s = inputs["x_t"], inputs["t"], inputs.get("s")
    t, s = (
        each if each is None else torch.as_tensor(each, device=x.device).expand(x.shape[0])
        for each in (t, s)
    )
    ddpm, clip = inputs["kind"] == "ddpm", inputs.get("clip_x0")
    eta, large = inputs.get("eta", float(ddpm)), inputs.get("variance") == "large"
    how = (inputs["target"], eta, large, ddpm or inputs.get("recompute_noise", False))
    found = reference.coefficients(t, s, inputs["alpha"], inputs["sigma"], *how, clip is not None)
    a, b, c, u, v, std = (per_sample(each, x, torch.float64) for each in found)

    p, other = inputs["prediction"], inputs.get("prediction_unconditional")
    predicted, p = p, p.abs()
    if other is not None:
        guidance = inputs["guidance"]
        predicted = other + guidance * (predicted - other)
        p = other.abs() + abs(guidance) * (p + other.abs())

    total = a.abs() * x.abs() + b.abs() * p
    if clip is not None:
        x0 = u.abs() * x.abs() + v.abs() * p
        x0 = torch.where((u * x + v * predicted).abs() <= clip, x0, clip)
        total = total + c.abs() * x0
    if _draws(inputs):
        total = total + std * _drawn(inputs, normals_magnitude, torch.float64).abs()

    return total


def _plain_x0(target: str, x_t: Tensor, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if target == "x0":
        return p

    return (x_t - b * p) / a if target == "noise" else a * x_t - b * p


def _plain_eps(target: str, x_t: Tensor, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if target == "noise":
        return p

    return (x_t - a * p) / b if target == "x0" else b * x_t + a * p


def _plain(
    kind: str,
    x_t: Tensor,
    prediction: Tensor,
    t: int | Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    *,
    s: int | Tensor | None = None,
    eta: float = 0.0,
    variance: str = "small",
    clip_x0: float | None = None,
    recompute_noise: bool = False,
    prediction_unconditional: Tensor | None = None,
    guidance: float | None = None,
    noise: Tensor | None = None,
    **where: Any,
) -> Tensor:
    """Take a step as one would in plain PyTorch, from torch's own generator."""
    dims = (-1, *(1 for _ in x_t.shape[1:]))
    t = torch.as_tensor(t, device=x_t.device).view(-1)
    s = t - 1 if s is None else torch.as_tensor(s, device=x_t.device).view(-1)
    to_clean = s < 0
    a, b = alpha[t].double(), sigma[t].double()
    a_s, b_s = torch.where(to_clean, 1.0, alpha[s]), torch.where(to_clean, 0.0, sigma[s])
    fresh = 1 - (a * b_s / (a_s * b)).square()
    eta = 1.0 if kind == "ddpm" else eta
    std = eta * torch.where(to_clean, 0.0, b if variance == "large" else b_s) * fresh.sqrt()
    direction = b_s * (1 - eta**2 * fresh).sqrt()
    # In double, because a step is the small difference of what x0 and eps put into it.
    posterior, clips = kind == "ddpm" or recompute_noise, clip_x0 is not None
    if posterior:
        weights = a_s - direction * a / b, direction / b
    else:
        weights = (a_s, direction) if clips else (direction - a_s * b / a, a_s / a)
    a, b, std, first, second = (each.to(x_t).view(dims) for each in (a, b, std, *weights))

    p = prediction
    if prediction_unconditional is not None:
        p = torch.lerp(prediction_unconditional, prediction, guidance)
    x0 = _plain_x0(target, x_t, p, a, b) if posterior or clips else None
    eps = None if posterior else _plain_eps(target, x_t, p, a, b)
    if clips:
        x0 = x0.clamp(-clip_x0, clip_x0)

    if posterior:
        x_s = first * x0 + second * x_t  # Ho et al., equation 7
    elif clips:
        x_s = first * x0 + second * eps
    else:
        x_s = first * eps + second * x_t  # Song et al., equation 13
    if eta == 0:
        return x_s

    return x_s + std * (torch.randn_like(x_t) if noise is None else noise)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x, p = inputs["x_t"], inputs["prediction"]
    reads = 1 if inputs.get("prediction_unconditional") is None else 2
    drawn = _draws(inputs) and inputs.get("noise") is None
    moved = 2 * x.element_size() + reads * p.element_size()
    moved += x.element_size() if inputs.get("noise") is not None else 0
    # A normal takes some 40 operations (README of philox), a product and its sum 2.
    operations = (42 if drawn else 0) + 6
    if backward:
        # Clipped, a gradient needs the values again.
        again = moved - x.element_size() if inputs.get("clip_x0") else 0
        moved += again + 2 * x.element_size() + reads * p.element_size()
        operations += 6

    return Cost(x.numel() * moved, x.numel() * operations)


def _terms(inputs: Inputs) -> tuple[int, int]:
    # Beside a coefficient's own: three of guidance, a product and the sum of x0's two terms, a
    # product and the sum of three terms.
    rest = 2 * _COEFFICIENT_ROUNDINGS + 8
    return rest + NORMAL_ROUNDINGS, rest


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        alpha, sigma = cosine_tables(10, device)
        x, t = torch.ones(2, 3, device=device), torch.tensor([0, 9], device=device)
        good = {"kind": "ddpm", "x_t": x, "prediction": x, "t": t, "alpha": alpha, "sigma": sigma}
        return good | changes

    return BadInput(name, make, error, names, shows)


def _shorter(inputs: Inputs, size: int) -> Inputs:
    cut = {name: inputs[name][:size] for name in _EACH if name in inputs}
    steps = {name: inputs[name] for name in ("t", "s") if isinstance(inputs.get(name), Tensor)}
    return inputs | cut | {name: each[:size] for name, each in steps.items()}


CASES = OpCases(
    function=_step,
    reference=partial(_step, impl="reference"),
    cases=(
        _case("ddim-aligned", "ddim", (8, 64)),
        _case("ddpm-odd", "ddpm", (7, 13)),
        _case("ddpm-images-large", "ddpm", (3, 3, 5, 7), variance="large"),
        _case("ddpm-velocity", "ddpm", (7, 270), "velocity"),
        _case("ddpm-x0-strided", "ddpm", (7, 13), "x0", s="half"),
        _case("ddpm-clipped", "ddpm", (7, 13), clip_x0=1.0),
        _case("ddpm-clipped-velocity", "ddpm", (7, 270), "velocity", clip_x0=0.7, variance="large"),
        _case(
            "ddpm-clipped-x0-guided", "ddpm", (7, 13), "x0", clip_x0=1.0, guided=True, guidance=3
        ),
        _case("ddpm-guided", "ddpm", (7, 13), guided=True, guidance=7.5),
        _case("ddpm-noise-given", "ddpm", (7, 13), given=True),
        _case("ddpm-one-step", "ddpm", (7, 13), t=500),
        _case("ddpm-last-step", "ddpm", (7, 13), t=0),
        _case("ddpm-to-x0", "ddpm", (7, 13), "velocity", t=900, s=-1, clip_x0=1.0),
        _case("ddpm-far-offset", "ddpm", (5, 18), sample_offset=2**33 - 2, stream=2**32 - 1),
        _case("ddpm-int32-steps", "ddpm", (7, 13), step_dtype=torch.int32, s="half"),
        _case("ddpm-bfloat16-prediction", "ddpm", (7, 13), prediction_dtype=torch.bfloat16),
        _case("ddim-scalars", "ddim", (11,), eta=0.5),
        _case("ddim-one", "ddim", (1, 1)),
        _case("ddim-no-samples", "ddim", (0, 13)),
        _case("ddim-no-elements", "ddim", (5, 0)),
        _case("ddpm-tiles", "ddpm", (3, 2051), "velocity", s="half"),
        replace(_case("ddpm-many", "ddpm", (66, 1027), "velocity", s="half"), interpreted=False),
        replace(
            _case("ddim-one-long-sample", "ddim", (1, 40_003), t=700, eta=1.0), interpreted=False
        ),
        _case("ddim-strided", "ddim", (7, 13), s="half"),
        _case("ddim-encode", "ddim", (7, 13), "velocity", t=300, s=340),
        _case("ddim-x0-eta", "ddim", (7, 13), "x0", s="half", eta=0.3),
        _case("ddim-clipped", "ddim", (7, 13), clip_x0=1.0, s="half"),
        _case("ddim-clipped-x0", "ddim", (7, 13), "x0", clip_x0=1.0, eta=0.4),
        _case("ddim-clipped-velocity", "ddim", (7, 13), "velocity", clip_x0=1.0),
        _case("ddim-recomputed", "ddim", (7, 13), clip_x0=1.0, recompute_noise=True),
        _case("ddim-guided", "ddim", (7, 13), "velocity", guided=True, guidance=-0.5, s="half"),
        _case("ddim-large", "ddim", (7, 13), "velocity", scale=1e4),
        _case("ddim-tiny", "ddim", (7, 13), "velocity", scale=1e-4),
        _case("ddpm-chunked", "ddpm", (7, 6, 5), layout=layouts.chunked, given=True),
        _case(
            "ddim-transposed", "ddim", (7, 13), layout=layouts.transposed, guided=True, guidance=2
        ),
        _case("ddim-sliced", "ddim", (7, 13), layout=layouts.sliced),
        _case("ddim-expanded", "ddim", (7, 13), layout=layouts.expanded),
    ),
    terms=_terms,
    with_batch=_shorter,
    magnitude=_magnitude,
    signed_magnitude=True,
    workloads=(
        _case("ddpm-256x3x64x64", "ddpm", (256, 3, 64, 64), t=500),
        _case("ddpm-256x3x64x64-clipped", "ddpm", (256, 3, 64, 64), t=500, clip_x0=1.0),
        _case("ddim-256x3x64x64", "ddim", (256, 3, 64, 64), t=500, s=480),
        _case(
            "ddim-256x3x64x64-guided",
            "ddim",
            (256, 3, 64, 64),
            t=500,
            s=480,
            guided=True,
            guidance=3,
        ),
        _case("ddpm-64x1x28x28", "ddpm", (64, 1, 28, 28), t=500),
        _case("ddim-8x64", "ddim", (8, 64), t=500),
        replace(_case("ddpm-64x3x256x256", "ddpm", (64, 3, 256, 256), t=500), devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("x-list", TypeError, "x_t", "list", x_t=[1.0]),
        _bad("x-bytes", TypeError, "x_t", "torch.uint8", x_t=torch.ones(2, 3).byte()),
        _bad("x-scalar", ValueError, "x_t", "()", x_t=torch.ones(())),
        _bad("prediction-shape", ValueError, "prediction", "(3, 2)", prediction=torch.ones(3, 2)),
        _bad(
            "prediction-integer",
            TypeError,
            "prediction",
            "int64",
            prediction=torch.ones(2, 3).long(),
        ),
        _bad("unguided", ValueError, "guidance", "3.0", guidance=3.0),
        _bad(
            "no-scale",
            ValueError,
            "guidance",
            "None",
            prediction_unconditional=torch.ones(2, 3),
        ),
        _bad(
            "unconditional-shape",
            ValueError,
            "prediction_unconditional",
            "(2, 2)",
            prediction_unconditional=torch.ones(2, 2),
        ),
        _bad("t-list", TypeError, "t", "list", t=[1, 2]),
        _bad("t-bool", TypeError, "t", "bool", t=True),
        _bad("t-float", TypeError, "t", "torch.float32", t=torch.zeros(())),
        _bad("t-shape", ValueError, "t", "(3,)", t=torch.zeros(3).long()),
        _bad("t-beyond", ValueError, "t", "10", t=10),
        _bad("t-negative", ValueError, "t", "-1", t=torch.tensor([-1, 3])),
        _bad("s-beyond", ValueError, "s", "-2", s=-2),
        _bad("s-shape", ValueError, "s", "(1,)", s=torch.zeros(1).long()),
        _bad("alpha-half", TypeError, "alpha", "torch.float16", alpha=torch.ones(10).half()),
        _bad("sigma-shape", ValueError, "sigma", "(9,)", sigma=torch.ones(9)),
        _bad("target", ValueError, "target", "'score'", target="score"),
        _bad("variance", ValueError, "variance", "'learned'", variance="learned"),
        _bad("eta", ValueError, "eta", "1.5", kind="ddim", eta=1.5),
        _bad("clip", ValueError, "clip_x0", "0", clip_x0=0),
        _bad("noise-shape", ValueError, "noise", "(3, 2)", noise=torch.ones(3, 2)),
        _bad("seed-float", TypeError, "seed", "float", seed=0.5),
        _bad("negative-offset", ValueError, "sample_offset", "-1", sample_offset=-1),
        _bad("far-stream", ValueError, "stream", str(2**32), stream=2**32),
    ),
    baseline=_plain,
    noise=_noise,
)
