"""Sample inputs, workloads and baseline of `diffusion_noise`."""

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
from dgm_fast._core.schedule import as_values, cosine_tables, per_sample
from dgm_fast.ops.diffusion_noise.api import diffusion_noise

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
    step_layout: _Layout = layouts.as_given,
    uint8: bool = False,
    given: bool = False,
    tensor_seed: bool = False,
    **options: int,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        alpha, sigma = cosine_tables(_STEPS, device)
        seed = int(torch.randint(2**62, (), generator=generator))
        inputs: Inputs = {"target": target, "alpha": alpha, "sigma": sigma, **options}
        inputs["seed"] = as_seed(seed, device) if tensor_seed else seed

        steps = torch.randint(_STEPS, shape[:1], generator=generator, dtype=step_dtype)
        steps[:2] = torch.tensor([0, _STEPS - 1])[: shape[0]]
        inputs["t"] = step_layout(steps.to(device))
        if uint8:
            x0 = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            x0.view(-1)[:2] = torch.tensor([0, 255])[: x0.numel()]
            inputs |= {"x0": layout(x0.to(device)), "dtype": dtype}
        else:
            x0 = scale * torch.randn(shape, generator=generator)
            inputs["x0"] = layout(x0.to(device, dtype)).detach()
        if given:
            noise = torch.randn(shape, generator=generator)
            inputs["noise"] = layout(noise.to(device, dtype)).detach()

        return inputs

    return OpCase(name, make, () if uint8 else ("x0",), _cost)


def _drawn(inputs: Inputs, draw: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
    """Return the noise of a call, or what `draw` makes of where it comes from."""
    if inputs.get("noise") is not None:
        return inputs["noise"]

    x0, where = inputs["x0"], (inputs.get("sample_offset", 0), inputs.get("stream", 0))
    return draw(as_seed(inputs["seed"], x0.device), x0.shape, *where, dtype)


def _noise(inputs: Inputs) -> Inputs:
    dtype = inputs.get("dtype") or inputs["x0"].dtype
    return {"noise": _drawn(inputs, normals, dtype)}


def _magnitude(**inputs: Any) -> tuple[Tensor, Tensor]:
    """Return the sums of absolute terms, with what its own roundings are relative to for a normal.

    Takes the absolute values of x0, noise and tables, in float64.
    """
    noise = _drawn(inputs, normals_magnitude, torch.float64).abs()
    value = as_values(inputs["x0"], torch.float64)
    value = value.abs() if inputs["x0"].dtype is torch.uint8 else value
    alpha, sigma = (
        per_sample(inputs[k][inputs["t"]], value, value.dtype) for k in ("alpha", "sigma")
    )
    targets = {"noise": noise, "x0": value, "velocity": alpha * noise + sigma * value}
    return alpha * value + sigma * noise, targets[inputs["target"]]


def _plain(
    x0: Tensor,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    *,
    dtype: torch.dtype | None = None,
    noise: Tensor | None = None,
    **where: Any,
) -> tuple[Tensor, Tensor]:
    """Add noise as one would in plain PyTorch, from torch's own generator."""
    if x0.dtype is torch.uint8:
        x0 = x0.to(dtype) / 127.5 - 1

    noise = torch.randn_like(x0) if noise is None else noise
    dims = (-1, *(1 for _ in x0.shape[1:]))
    scale, spread = alpha[t].view(dims), sigma[t].view(dims)
    x_t = (scale * x0 + spread * noise).to(x0.dtype)
    if target == "velocity":
        return x_t, (scale * noise - spread * x0).to(x0.dtype)

    return x_t, noise if target == "noise" else x0


def _cost(inputs: Inputs, backward: bool) -> Cost:
    x0 = inputs["x0"]
    out = inputs.get("dtype", x0.dtype).itemsize
    drawn = inputs.get("noise") is None
    given = {"x0": x0, "noise": inputs.get("noise")}.get(inputs["target"])
    results = 2 if given is None or not given.is_floating_point() else 1
    moved = x0.element_size() + results * out + (0 if drawn else out)
    # A normal takes some 40 operations (README of philox), a linear combination of two numbers 3.
    operations = (40 if drawn else 0) + 3 * results
    if backward:
        # Only the velocity's gradient reaches x0 beside that of x_t.
        reads = 2 if inputs["target"] == "velocity" else 1
        moved, operations = moved + (reads + 1) * out, operations + 2 * reads - 1

    return Cost(x0.numel() * moved, x0.numel() * operations)


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        alpha, sigma = cosine_tables(10, device)
        x0, t = torch.ones(2, 3, device=device), torch.tensor([0, 9], device=device)
        return {"x0": x0, "t": t, "alpha": alpha, "sigma": sigma, "seed": 0} | changes

    return BadInput(name, make, error, names, shows)


CASES = OpCases(
    function=diffusion_noise,
    reference=partial(diffusion_noise, impl="reference"),
    cases=(
        _case("aligned", (8, 64)),
        _case("odd", (7, 13)),
        _case("images", (3, 3, 5, 7), "velocity"),
        _case("scalars", (11,)),
        _case("one", (1, 1), "velocity"),
        _case("no-samples", (0, 13)),
        _case("no-elements", (5, 0)),
        _case("tiles", (3, 2051), "velocity"),
        replace(_case("many", (66, 1027), "velocity"), interpreted=False),
        replace(_case("one-long-sample", (1, 40_003)), interpreted=False),
        _case("x0-itself", (7, 13), "x0"),
        _case("noise-given", (7, 13), given=True),
        _case("velocity-of-noise-given", (7, 270), "velocity", given=True),
        _case("bytes", (7, 3, 5, 7), uint8=True),
        _case("bytes-velocity", (7, 270), "velocity", uint8=True),
        _case("bytes-x0", (7, 270), "x0", uint8=True),
        _case("bytes-noise-given", (7, 13), uint8=True, given=True),
        _case("bytes-sliced", (7, 13), uint8=True, layout=layouts.sliced),
        _case("large", (7, 13), "velocity", scale=1e30),
        _case("tiny", (7, 13), "velocity", scale=1e-30),
        _case("chunked", (7, 6, 5), "velocity", layout=layouts.chunked, given=True),
        _case("transposed", (7, 13), "velocity", layout=layouts.transposed, given=True),
        _case("sliced", (7, 13), "velocity", layout=layouts.sliced, given=True),
        _case("expanded", (7, 13), "velocity", layout=layouts.expanded),
        _case("int32-steps", (7, 13), step_dtype=torch.int32),
        _case("strided-steps", (7, 13), step_layout=layouts.sliced),
        _case("tensor-seed", (5, 18), tensor_seed=True),
        _case("far-offset", (5, 18), sample_offset=2**33 - 2, stream=2**32 - 1),
    ),
    # A normal's own; its product and x0's, or x0's two as a byte's value; their sum.
    terms=lambda inputs: (NORMAL_ROUNDINGS + 4, 3),
    with_batch=lambda inputs, size: (
        inputs | {name: inputs[name][:size] for name in ("x0", "t", "noise") if name in inputs}
    ),
    magnitude=_magnitude,
    workloads=(
        _case("256x3x64x64", (256, 3, 64, 64)),
        _case("256x3x64x64-velocity", (256, 3, 64, 64), "velocity"),
        _case("256x3x64x64-bytes", (256, 3, 64, 64), uint8=True),
        _case("256x3x64x64-noise-given", (256, 3, 64, 64), given=True),
        _case("128x1x28x28", (128, 1, 28, 28)),
        _case("8x64", (8, 64)),
        replace(_case("64x3x256x256", (64, 3, 256, 256)), devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("x0-list", TypeError, "x0", "list", x0=[1.0]),
        _bad("x0-integer", TypeError, "x0", "torch.int64", x0=torch.ones(2, 3).long()),
        _bad("x0-scalar", ValueError, "x0", "()", x0=torch.ones(())),
        _bad("t-int", TypeError, "t", "int", t=3),
        _bad("t-float", TypeError, "t", "torch.float32", t=torch.zeros(2)),
        _bad("t-shape", ValueError, "t", "(3,)", t=torch.zeros(3).long()),
        _bad("t-device", ValueError, "t", "meta", t=torch.zeros(2, device="meta").long()),
        _bad("t-negative", ValueError, "t", "-1", t=torch.tensor([-1, 0])),
        _bad("t-beyond", ValueError, "t", "10", t=torch.tensor([0, 10])),
        _bad("alpha-list", TypeError, "alpha", "list", alpha=[1.0]),
        _bad("alpha-half", TypeError, "alpha", "torch.bfloat16", alpha=torch.ones(10).bfloat16()),
        _bad("alpha-shape", ValueError, "alpha", "(2, 5)", alpha=torch.ones(2, 5)),
        _bad("alpha-empty", ValueError, "alpha", "(0,)", alpha=torch.ones(0)),
        _bad("alpha-learned", ValueError, "alpha", "True", alpha=torch.ones(10).requires_grad_()),
        _bad("alpha-device", ValueError, "alpha", "meta", alpha=torch.ones(10, device="meta")),
        _bad("sigma-shape", ValueError, "sigma", "(9,)", sigma=torch.ones(9)),
        _bad("target", ValueError, "target", "'score'", target="score"),
        _bad("dtype-integer", TypeError, "dtype", "torch.int32", dtype=torch.int32),
        _bad("dtype-other", TypeError, "dtype", "torch.float16", dtype=torch.float16),
        _bad("noise-list", TypeError, "noise", "list", noise=[1.0]),
        _bad("noise-shape", ValueError, "noise", "(3, 2)", noise=torch.ones(3, 2)),
        _bad("seed-float", TypeError, "seed", "float", seed=0.5),
        _bad("negative-offset", ValueError, "sample_offset", "-1", sample_offset=-1),
        _bad("far-stream", ValueError, "stream", str(2**32), stream=2**32),
    ),
    baseline=_plain,
    noise=_noise,
)
