"""Sample inputs, workloads and rivals of `gaussian_mixture_log_prob`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast.ops.gaussian_mixture_log_prob import reference
from dgm_fast.ops.gaussian_mixture_log_prob.api import gaussian_mixture_log_prob

_ARGUMENTS = ("z", "means", "log_vars", "log_weights")
_Layout = Callable[[Tensor], Tensor]

# In half ulps: a difference, twice in its square; the square; the exponential, 6; their product;
# halving is exact; the constant and the distance meet, and log_weights.
_TERM_ROUNDINGS = 14


def _case(
    name: str,
    rows: int,
    components: int,
    dims: int,
    *,
    log_vars_shape: tuple[int, int] | None = None,
    layout: _Layout = lambda tensor: tensor,
    scale: float = 1.0,
    offset: float = 0.0,
    log_var: float = 0.0,
    without_first: bool = False,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        log_weights = (0.5 * draw(components)).log_softmax(dim=0)
        if without_first:
            log_weights[0] = -torch.inf

        variances = log_vars_shape or (components, dims)
        tensors = {
            "z": layout((offset + scale * draw(rows, dims)).to(device, dtype)),
            "means": layout((offset + scale * draw(components, dims)).to(device, dtype)),
            "log_vars": layout((log_var + 0.5 * draw(*variances)).to(device, dtype)),
            "log_weights": log_weights.to(device, dtype),
        }
        return {key: value.detach() for key, value in tensors.items()}

    return OpCase(name, make, _ARGUMENTS, _cost, devices)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    (rows, dims), components = inputs["z"].shape, inputs["means"].shape[0]
    numbers = rows * dims + 2 * components * dims + components
    moved = rows + numbers + (rows + numbers if backward else 0)

    # Forward, for each row, component and dim: a difference, its square, times the precision,
    # added. Backward the same again, and a product and a sum for each of three gradients; an
    # exponential for each row and component counts 20.
    products = rows * components * dims
    exponentials = 20 * rows * components
    flops = (14 if backward else 4) * products + (2 if backward else 1) * exponentials
    return Cost(moved * inputs["z"].element_size(), flops)


def _terms(inputs: Inputs) -> tuple[int, int]:
    (rows, dims), components = inputs["z"].shape, inputs["means"].shape[0]
    forward = 2 * dims + components + _TERM_ROUNDINGS
    return forward, forward + max(rows, components)


def _magnitude(z: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor) -> Tensor:
    r"""Bound what a rounding is relative to, in the result and in its gradients.

    With responsibilities r_k and A_k the sum of absolute terms of component k's exponent, an error
    of u A_k in it moves log p by u r_k A_k, and r_k itself by u r_k (A_k + \sum_j r_j A_j). The
    exponentials, sum and logarithm of the log-sum-exp add roundings of 1.
    """
    spread = log_vars.expand_as(means).detach()
    differences = z.detach()[:, None] - means.detach()  # [B, K, D]
    precisions = (-spread).exp()
    distances = precisions * differences.square()

    finite = log_weights.detach().nan_to_num(neginf=0.0).abs()
    constants = 0.5 * (spread.abs() + math.log(2 * math.pi)).sum(dim=-1) + finite
    absolutes = constants + 0.5 * distances.sum(dim=-1)
    signed = reference.gaussian_mixture_log_prob(z, means, log_vars, log_weights)
    exponents = log_weights - 0.5 * (
        (spread + math.log(2 * math.pi)).sum(dim=-1) + distances.sum(dim=-1)
    )
    shares = (exponents - signed[:, None]).exp().detach()
    value = (shares * absolutes).sum(dim=-1, keepdim=True)  # [B, 1]

    # Gradients of this sum by the leaves are the bounds.
    moved = shares * (1 + absolutes + value)  # [B, K]
    by_distance = moved[..., None] * precisions * differences.abs()
    by_spread = moved[..., None] * 0.5 * (distances + 1)
    return (
        1
        + value[:, 0]
        + _linear(z, by_distance.sum(dim=1))
        + _linear(means, by_distance)
        + _linear(log_vars, by_spread)
        + _linear(log_weights, moved)
    )


def _linear(leaf: Tensor, slopes: Tensor) -> Tensor:
    """Return zeros (B,) whose derivatives by the leaf are the slopes (B, ...)."""
    # A weight of -inf less itself is NaN.
    return ((leaf - leaf.detach()).nan_to_num() * slopes).flatten(1).sum(dim=1)


def _expanded_squares(inputs: Inputs) -> Prepared:
    # Two matrix products in place of a (B, K, D) tensor; inexact where squares nearly cancel.
    z, means, log_vars, log_weights = (inputs[name] for name in _ARGUMENTS)

    def log_prob() -> Tensor:
        spread = log_vars.expand_as(means)
        precisions = (-spread).exp()
        scaled = means * precisions
        constants = log_weights - 0.5 * (spread + scaled * means + math.log(2 * math.pi)).sum(
            dim=-1
        )
        exponents = torch.addmm(constants, z.square(), precisions.t(), alpha=-0.5)
        return torch.logsumexp(torch.addmm(exponents, z, scaled.t()), dim=1)

    return Prepared(log_prob, (z, means, log_vars, log_weights))


def _torch_distributions(inputs: Inputs) -> Prepared:
    z, means, log_vars, log_weights = (inputs[name] for name in _ARGUMENTS)

    def log_prob() -> Tensor:
        scales = (0.5 * log_vars).exp().expand_as(means)
        components = Independent(Normal(means, scales, validate_args=False), 1)
        weights = Categorical(logits=log_weights, validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False).log_prob(z)

    return Prepared(log_prob, (z, means, log_vars, log_weights))


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t()


def _sliced(tensor: Tensor) -> Tensor:
    return torch.stack((tensor, tensor), dim=-1)[..., 0]


def _half_of(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, tensor), dim=1).chunk(2, dim=1)[1]


def _expanded(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {
            "z": torch.ones(2, 3),
            "means": torch.ones(4, 3),
            "log_vars": torch.ones(4, 3),
            "log_weights": torch.ones(4),
        }
        return {key: _moved(value, device) for key, value in (good | changes).items()}

    return BadInput(name, make, error, names, shows)


def _moved(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) and not value.is_meta else value


CASES = OpCases(
    function=gaussian_mixture_log_prob,
    reference=reference.gaussian_mixture_log_prob,
    cases=(
        _case("aligned", 32, 64, 16),
        _case("odd", 13, 11, 7),
        _case("empty-batch", 0, 5, 3),
        _case("no-dims", 5, 7, 0),
        _case("one", 1, 1, 1),
        _case("one-component", 9, 1, 5),
        _case("one-row", 1, 100, 33),
        _case("one-dim", 70, 40, 1),
        _case("two-dims", 131, 19, 2),
        _case("tile-edges", 131, 150, 3),
        replace(_case("block-edges", 33, 129, 65), interpreted=False),
        replace(_case("many-components", 7, 1100, 5), interpreted=False),
        replace(_case("many-rows", 700, 17, 9), interpreted=False),
        _case("some-dims", 5, 6, 130),
        replace(_case("many-dims", 5, 6, 1030), interpreted=False),
        _case("shared-variances", 13, 11, 7, log_vars_shape=(1, 7)),
        _case("isotropic", 13, 11, 7, log_vars_shape=(11, 1)),
        _case("one-variance", 13, 11, 7, log_vars_shape=(1, 1)),
        _case("component-left-out", 13, 20, 7, without_first=True),
        _case("transposed", 13, 11, 7, layout=_transposed),
        _case("sliced", 13, 11, 7, layout=_sliced),
        _case("half-of-dims", 13, 11, 7, layout=_half_of),
        _case("expanded", 13, 11, 7, layout=_expanded),
        _case("far-from-zero", 13, 11, 7, offset=1000.0),
        _case("far-apart", 13, 11, 7, scale=30.0),
        _case("small-variances", 13, 11, 7, log_var=-14.0, scale=1e-3),
        _case("large-variances", 13, 11, 7, log_var=20.0, scale=1e4),
    ),
    terms=_terms,
    magnitude=_magnitude,
    signed_magnitude=True,
    with_batch=lambda inputs, size: {**inputs, "z": inputs["z"][:1].repeat(size, 1)},
    workloads=(
        _case("512x64-of-500", 512, 500, 64),
        _case("100x40-of-500", 100, 500, 40),
        _case("4096x2-of-64", 4096, 64, 2),
        _case("16x8-of-10", 16, 10, 8),
        _case("12800x40-of-500", 12800, 500, 40, devices=("cuda",)),
    ),
    bad_inputs=(
        _bad("z-vector", ValueError, "z", "(3,)", z=torch.ones(3)),
        _bad("z-integer", TypeError, "z", "torch.int64", z=torch.ones(2, 3).long()),
        _bad("z-list", TypeError, "z", "list", z=[[1.0]]),
        _bad("means-dims", ValueError, "means", "(4, 5)", means=torch.ones(4, 5)),
        _bad("no-components", ValueError, "means", "(0, 3)", means=torch.ones(0, 3)),
        _bad("means-device", ValueError, "means", "meta", means=torch.ones(4, 3, device="meta")),
        _bad("log_vars-shape", ValueError, "log_vars", "(3, 3)", log_vars=torch.ones(3, 3)),
        _bad("log_vars-vector", ValueError, "log_vars", "(3,)", log_vars=torch.ones(3)),
        _bad("log_weights-shape", ValueError, "log_weights", "(3,)", log_weights=torch.ones(3)),
        _bad(
            "log_weights-column", ValueError, "log_weights", "(4, 1)", log_weights=torch.ones(4, 1)
        ),
    ),
    rivals={
        "best_eager": _expanded_squares,
        "outside:torch.distributions": _torch_distributions,
    },
)
