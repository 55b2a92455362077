"""Sample inputs, workloads and rivals of `gaussian_rsample_kl`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast._core.philox import NORMAL_ROUNDINGS, normals, normals_magnitude
from dgm_fast._core.random import as_seed
from dgm_fast.ops.gaussian_rsample_kl.api import gaussian_rsample_kl

_Layout = Callable[[Tensor], Tensor]

# In u, what an element's z or kl rounds relative to `_magnitude`: the noise, and 6 more for the
# exponential to 3 u, its product with the noise, and the sum with the mean.
_ROUNDINGS = NORMAL_ROUNDINGS + 6
# The Monte-Carlo form multiplies two factors that hold the noise, each with up to 24 u of its own
# for e^(log_ratio / 2) - 1 where that loses a digit to the 1: 4 times as many.
_MONTE_CARLO = 4


def _as_given(tensor: Tensor) -> Tensor:
    return tensor


def _chunked(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, tensor), dim=1).chunk(2, dim=1)[1]


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def _sliced(tensor: Tensor) -> Tensor:
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


def _expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


def _case(
    name: str,
    shape: tuple[int, ...],
    *,
    prior: str | None = None,
    prior_log_var: str | None = None,
    noise: bool = False,
    equal: bool = False,
    scale: float = 1.0,
    log_vars: tuple[float, float] | None = None,
    layout: _Layout = _as_given,
    **options: Any,
) -> OpCase:
    """Make a case; the prior's shape is that of mean, `"shared"` without or `"kept"` with a 1."""
    shapes = {"each": shape, "shared": shape[1:], "kept": (1, *shape[1:])}
    differentiable = ("mean", "log_var", *(("prior_mean", "prior_log_var") if prior else ()))

    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(shape: tuple[int, ...], factor: float) -> Tensor:
            return (factor * torch.randn(shape, generator=generator)).to(device, dtype)

        def draw_log_var(shape: tuple[int, ...]) -> Tensor:
            if log_vars is None:
                return draw(shape, 1.0)
            low, high = log_vars
            return (low + (high - low) * torch.rand(shape, generator=generator)).to(device, dtype)

        mean, log_var = layout(draw(shape, scale)), layout(draw_log_var(shape))
        inputs: Inputs = {"mean": mean.detach(), "log_var": log_var.detach(), **options}
        if prior is not None:
            inputs["prior_mean"] = draw(shapes[prior], scale)
            inputs["prior_log_var"] = draw_log_var(shapes[prior_log_var or prior])
        if equal:
            inputs |= {f"prior_{name}": inputs[name].clone() for name in ("mean", "log_var")}

        if noise:
            inputs["noise"] = layout(draw(shape, 1.0))
        else:
            inputs["seed"] = int(torch.randint(2**62, (), generator=generator))
        return inputs

    return OpCase(name, make, differentiable, _cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    # Noise as `philox` counts it, 40; an exponential 20, of which a prior needs a second and part
    # of a third; 12 for z, the divergence and its sum.
    count, given = inputs["mean"].numel(), inputs.get("noise") is not None
    names = ("mean", "log_var", "prior_mean", "prior_log_var")
    read = sum(inputs[name].numel() for name in names if inputs.get(name) is not None)
    flops = count * ((0 if given else 40) + (52 if "prior_mean" in inputs else 32))

    moved = read + count * (2 if given else 1)
    if backward:
        # Read all of them again and the gradient of z; write a gradient for each input.
        moved, flops = 2 * moved + read, 2 * flops + 12 * count

    return Cost(moved * inputs["mean"].element_size() + 4 * inputs["mean"].shape[0], flops)


def _with_batch(inputs: Inputs, size: int) -> Inputs:
    ndim, batch = inputs["mean"].ndim, inputs["mean"].shape[0]
    return {
        name: value[:size]
        if isinstance(value, Tensor) and value.ndim == ndim and value.shape[0] == batch
        else value
        for name, value in inputs.items()
    }


def _per_sample(elements: Tensor) -> Tensor:
    return elements.reshape(elements.shape[0], math.prod(elements.shape[1:])).sum(1)


def _magnitude(
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    kl: str = "analytic",
    free_bits: float = 0.0,
    noise: Tensor | None = None,
    seed: int = 0,
    sample_offset: int = 0,
    stream: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return what `_ROUNDINGS` of z, and with the sum's own of kl, are relative to.

    Values and derivatives are bounded apart. e^a - 1 - a is rounded by a share of e^a - 1 and of
    a, and where a is itself a rounded difference, as it is with a prior, by |a| (e^a - 1) more.
    """
    if noise is None:
        seed_tensor = as_seed(seed, mean.device)
        noise = normals_magnitude(seed_tensor, mean.shape, sample_offset, stream, mean.dtype)
    noise, mean = noise.abs(), _valued(mean, mean.abs())
    std = torch.exp(0.5 * log_var)
    z = mean + std * noise

    offset, a, rounded = mean, log_var, 0.0
    if prior_mean is not None and prior_log_var is not None:
        minus = _valued(prior_log_var, -prior_log_var)
        offset = (mean + _valued(prior_mean, prior_mean.abs())) * torch.exp(0.5 * minus)
        a = log_var + minus
        rounded = a.detach().abs()

    if kl == "analytic":
        smooth = torch.exp(a) + a + offset.square()
        value = (1 + rounded) * torch.expm1(a).abs() + a.abs() + offset.square()
    else:
        ratio = torch.exp(0.5 * a)
        smooth = (offset + ratio * noise) * (offset + (ratio + 2) * noise) + a
        growth = torch.expm1(0.5 * a).abs() + rounded * ratio
        value = (offset + growth * noise) * (offset + (growth + 2) * noise) + a.abs()
        value, smooth = _MONTE_CARLO * value, _MONTE_CARLO * smooth

    divergence = 0.5 * _valued(smooth, value) + free_bits
    elements = math.prod(mean.shape[1:])
    return _ROUNDINGS / (elements + _ROUNDINGS) * z, _per_sample(divergence)


def _valued(x: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the derivative of x: terms of a gradient add where x's own cancel."""
    return x + (value - x).detach()


def _terms(inputs: Inputs) -> tuple[int, int]:
    batch, elements = inputs["mean"].shape[0], math.prod(inputs["mean"].shape[1:])
    return elements + _ROUNDINGS, max(elements, batch) + _ROUNDINGS


def _given_noise(inputs: Inputs) -> Inputs:
    if inputs.get("noise") is not None:
        return {}

    mean, where = inputs["mean"], (inputs.get("sample_offset", 0), inputs.get("stream", 0))
    return {
        "noise": normals(as_seed(inputs["seed"], mean.device), mean.shape, *where, torch.float32)
    }


def _plain(
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    kl: str = "analytic",
    free_bits: float = 0.0,
    noise: Tensor | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute what one would write, with the sum in float32."""
    noise = torch.randn_like(mean) if noise is None else noise
    z = mean + torch.exp(0.5 * log_var) * noise
    m, v, exact = mean.float(), log_var.float(), z.float()

    if kl == "monte_carlo":
        log_q = -0.5 * (noise.float().square() + v)
        if prior_mean is None or prior_log_var is None:
            log_p = -0.5 * exact.square()
        else:
            p, w = prior_mean.float(), prior_log_var.float()
            log_p = -0.5 * ((exact - p).square() / w.exp() + w)
        divergence = log_q - log_p
    elif prior_mean is None or prior_log_var is None:
        divergence = -0.5 * (1 + v - m.square() - v.exp())
    else:
        p, w = prior_mean.float(), prior_log_var.float()
        divergence = -0.5 * (1 + v - w - ((m - p).square() + v.exp()) / w.exp())

    if free_bits > 0:
        divergence = divergence.clamp(min=free_bits)
    return z.to(mean.dtype), _per_sample(divergence)


def _best_eager(inputs: Inputs) -> Prepared:
    """Share the exponential and the temporaries of the plain form, for a prior of N(0, I)."""
    mean, log_var = inputs["mean"], inputs["log_var"]
    if "prior_mean" in inputs or inputs.get("kl", "analytic") != "analytic":
        raise ImportError("written for the analytic divergence from N(0, I)")
    if mean.dtype is not torch.float32 or inputs.get("free_bits", 0.0) > 0:
        raise ImportError("written for float32 without free bits")

    def call() -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(mean) if inputs.get("noise") is None else inputs["noise"]
        std = torch.exp(0.5 * log_var)
        z = torch.addcmul(mean, std, noise)
        divergence = torch.addcmul(torch.addcmul(-1 - log_var, std, std), mean, mean)
        return z, 0.5 * _per_sample(divergence)

    return Prepared(call, (mean, log_var))


def _torch_distributions(inputs: Inputs) -> Prepared:
    names = ("mean", "log_var", "prior_mean", "prior_log_var")
    leaves = tuple(inputs[name] for name in names if inputs.get(name) is not None)
    if inputs.get("kl", "analytic") != "analytic":
        raise ImportError("torch.distributions has no single call for the Monte-Carlo form")

    def normal(mean: Tensor, log_var: Tensor) -> Normal:
        return Normal(mean, torch.exp(0.5 * log_var), validate_args=False)

    def call() -> tuple[Tensor, Tensor]:
        q = normal(*leaves[:2])
        p = normal(*leaves[2:]) if len(leaves) > 2 else Normal(torch.zeros(()), torch.ones(()))
        noise = inputs.get("noise")
        z = q.rsample() if noise is None else (q.loc + q.scale * noise).to(q.loc.dtype)
        divergence = kl_divergence(q, p).float()
        free_bits = inputs.get("free_bits", 0.0)
        divergence = divergence.clamp(min=free_bits) if free_bits > 0 else divergence
        return z, _per_sample(divergence)

    return Prepared(call, leaves)


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"mean": torch.ones(2, 3), "log_var": torch.ones(2, 3), "seed": 0}
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    stays = not isinstance(value, Tensor) or value.is_meta
    return value if stays else value.to(device)


def _prior(**changes: object) -> dict[str, object]:
    return {"prior_mean": torch.ones(2, 3), "prior_log_var": torch.ones(2, 3)} | changes


_EXTREME = (-30.0, 20.0)

CASES = OpCases(
    function=gaussian_rsample_kl,
    reference=partial(gaussian_rsample_kl, impl="reference"),
    cases=(
        _case("aligned", (64, 64)),
        _case("odd", (7, 13)),
        _case("latents", (3, 4, 5, 7)),
        _case("scalars", (11,)),
        _case("one", (1, 1)),
        _case("empty-batch", (0, 13), prior="each"),
        _case("empty-batch-shared-prior", (0, 13), prior="shared"),
        _case("no-elements", (5, 0)),
        replace(_case("many", (66, 1027)), interpreted=False),
        replace(_case("one-long-sample", (1, 40_003)), interpreted=False),
        _case("few-elements", (301, 3), prior="each"),
        _case("noise-given", (7, 13), noise=True),
        replace(_case("noise-given-many", (66, 1027), noise=True, prior="each"), interpreted=False),
        _case("far-stream", (5, 18), sample_offset=2**33 - 2, stream=2**32 - 1),
        _case("prior", (7, 13), prior="each"),
        replace(_case("prior-many", (66, 1027), prior="each"), interpreted=False),
        _case("prior-latents", (3, 4, 5, 7), prior="each"),
        _case("prior-shared", (19, 13), prior="shared"),
        _case("prior-kept", (5, 2, 3, 7), prior="kept"),
        replace(_case("prior-shared-many", (150, 1027), prior="shared"), interpreted=False),
        _case("prior-shared-tiles", (300, 13), prior="shared"),
        _case("prior-shared-pieces", (2, 2051), prior="shared"),
        _case("prior-of-scalars", (11,), prior="shared"),
        _case("prior-shared-mean", (19, 13), prior="shared", prior_log_var="each"),
        _case("prior-shared-log-var", (19, 300), prior="each", prior_log_var="kept"),
        _case("prior-equal", (7, 13), prior="each", equal=True),
        _case("monte-carlo", (7, 13), kl="monte_carlo"),
        replace(_case("monte-carlo-many", (66, 1027), kl="monte_carlo"), interpreted=False),
        _case("monte-carlo-pieces", (2, 2051), kl="monte_carlo", prior="each"),
        _case("monte-carlo-prior", (7, 13), kl="monte_carlo", prior="each"),
        _case("monte-carlo-shared", (19, 300), kl="monte_carlo", prior="shared"),
        _case("monte-carlo-equal", (7, 13), kl="monte_carlo", prior="each", equal=True),
        _case("monte-carlo-noise-given", (7, 13), kl="monte_carlo", noise=True),
        _case("free-bits", (7, 13), free_bits=0.25),
        _case("free-bits-prior", (19, 300), free_bits=0.5, prior="each"),
        _case("free-bits-shared", (19, 13), free_bits=0.5, prior="shared"),
        _case("chunked", (9, 20), layout=_chunked, prior="each"),
        _case("chunked-latents", (3, 4, 5, 7), layout=_chunked),
        _case("transposed", (9, 20), layout=_transposed),
        _case("transposed-latents", (3, 4, 5, 7), layout=_transposed, noise=True),
        _case("sliced", (9, 20), layout=_sliced, noise=True),
        _case("expanded", (9, 20), layout=_expanded),
        _case("far-log-vars", (40, 7), log_vars=_EXTREME),
        _case("far-log-vars-prior", (40, 7), log_vars=_EXTREME, scale=1e2, prior="each"),
        _case("far-log-vars-monte-carlo", (40, 7), log_vars=_EXTREME, kl="monte_carlo"),
        _case("near-equal", (40, 7), scale=1e-4, log_vars=(-1e-4, 1e-4)),
        _case("large-means", (7, 13), scale=1e4),
    ),
    terms=_terms,
    with_batch=_with_batch,
    magnitude=_magnitude,
    signed_magnitude=True,
    workloads=(
        _case("8192x512", (8192, 512)),
        _case("8192x512-prior", (8192, 512), prior="each"),
        _case("8192x512-shared-prior", (8192, 512), prior="shared"),
        _case("8192x512-monte-carlo", (8192, 512), kl="monte_carlo"),
        _case("8192x512-free-bits", (8192, 512), free_bits=0.1),
        _case("8192x512-chunked", (8192, 512), layout=_chunked),
        _case("8192x32", (8192, 32)),
        _case("100x50", (100, 50)),
        replace(_case("65536x512", (65536, 512)), devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("mean-list", TypeError, "mean", "list", mean=[1.0, 2.0]),
        _bad("mean-integer", TypeError, "mean", "torch.int64", mean=torch.ones(2, 3).long()),
        _bad("mean-scalar", ValueError, "mean", "()", mean=torch.ones(())),
        _bad("log-var-shape", ValueError, "log_var", "(2, 4)", log_var=torch.ones(2, 4)),
        _bad("log-var-dtype", TypeError, "log_var", "float64", log_var=torch.ones(2, 3).double()),
        _bad(
            "log-var-device", ValueError, "log_var", "meta", log_var=torch.ones(2, 3, device="meta")
        ),
        _bad("half-a-prior", ValueError, "prior_log_var", "None", prior_mean=torch.ones(2, 3)),
        _bad("other-half", ValueError, "prior_mean", "None", prior_log_var=torch.ones(2, 3)),
        _bad(
            "prior-shape", ValueError, "prior_mean", "(3, 3)", **_prior(prior_mean=torch.ones(3, 3))
        ),
        _bad(
            "prior-dtype",
            TypeError,
            "prior_log_var",
            "torch.bfloat16",
            **_prior(prior_log_var=torch.ones(3).bfloat16()),
        ),
        _bad(
            "prior-device",
            ValueError,
            "prior_mean",
            "meta",
            **_prior(prior_mean=torch.ones(2, 3, device="meta")),
        ),
        _bad("kl-name", ValueError, "kl", "'exact'", kl="exact"),
        _bad("free-bits-negative", ValueError, "free_bits", "-0.5", free_bits=-0.5),
        _bad("free-bits-nan", ValueError, "free_bits", "nan", free_bits=math.nan),
        _bad("free-bits-list", TypeError, "free_bits", "list", free_bits=[0.5]),
        _bad(
            "free-bits-of-samples", ValueError, "free_bits", "0.5", free_bits=0.5, kl="monte_carlo"
        ),
        _bad("noise-shape", ValueError, "noise", "(3,)", noise=torch.ones(3)),
        _bad("noise-integer", TypeError, "noise", "torch.int64", noise=torch.ones(2, 3).long()),
        _bad("float-seed", TypeError, "seed", "float", seed=0.5),
        _bad("negative-offset", ValueError, "sample_offset", "-1", sample_offset=-1),
        _bad("far-stream", ValueError, "stream", str(2**32), stream=2**32),
    ),
    rivals={"best_eager": _best_eager, "outside:torch_distributions": _torch_distributions},
    baseline=_plain,
    noise=_given_noise,
)
