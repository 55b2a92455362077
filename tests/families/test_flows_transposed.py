"""Gradients of an autoregressive step's inverse, by each way to solve for them."""

from __future__ import annotations

import copy

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast.families.flows import masked_autoregressive as steps
from dgm_fast.families.flows.masked_autoregressive import (
    AffineAutoregressive,
    SplineAutoregressive,
)
from dgm_fast.layers import SplineShape
from dgm_fast.sampling.masked_mlp import BLOCK


@pytest.mark.parametrize("kind", ["standardizing", "affine", "spline"])
@pytest.mark.parametrize("D", [1, 6, 2 * BLOCK + 7])
@pytest.mark.parametrize("context_features", [0, 3])
def test_gradients_of_the_sweep_are_those_of_float64(kind, D, context_features, monkeypatch):
    torch.manual_seed(1)
    options = {"context_features": context_features, "residual": D == 6}
    hidden = (33, 50, 33) if D > 1 else (5,)
    if kind == "spline":
        step = SplineAutoregressive(D, hidden, SplineShape(5, 3.0), **options)
    else:
        step = AffineAutoregressive(D, hidden, standardize=kind == "standardizing", **options)
    with torch.no_grad():
        for p in step.parameters():
            p += 0.05 * torch.randn_like(p)
    x = torch.randn(11, D, dtype=torch.float64)
    context = torch.randn(11, context_features).double() if context_features else None
    solvers = []
    for name in ("MaskedBlocks", "TransposedSweep"):
        monkeypatch.setattr(steps, name, count_calls(getattr(steps, name), solvers))

    found = []
    for each in (copy.deepcopy(step).double(), step):
        dtype = next(each.parameters()).dtype
        given = [None if t is None else t.to(dtype).requires_grad_() for t in (x, context)]
        back, log_det = each.inverse(*given)
        leaves = [t for t in (*given, *each.parameters()) if t is not None]
        # Small, as the gradients of a mean over many samples are.
        loss = (back.sin().sum() + log_det.square().sum() / D) * 2.0**-30
        found.append(torch.autograd.grad(loss, leaves, allow_unused=True))

    if extension.cpp_missing is None:
        assert solvers == ["MaskedBlocks"] * (2 * BLOCK <= D) + ["TransposedSweep"]
    for exact, ours in zip(*found, strict=True):
        if exact is not None:
            assert (ours - exact).abs().max() <= 2e-5 * exact.abs().max()


def count_calls(made, names):
    """Return what makes the same, and notes its name."""

    def make(*given):
        names.append(made.__name__)
        return made(*given)

    return make


@pytest.mark.parametrize("D", [6, 2 * BLOCK + 7])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_small_gradient_is_solved_as_a_large_one_is(D, impl):
    torch.manual_seed(2)
    step = AffineAutoregressive(D, (40,), impl=impl)
    with torch.no_grad():
        for p in step.parameters():
            p += 0.05 * torch.randn_like(p)
    y = torch.randn(5, D, requires_grad=True)
    grad = torch.randn(5, D)
    large, small = (
        torch.autograd.grad(step.inverse(y)[0], y, grad * size)[0] / size for size in (1, 2.0**-30)
    )
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-6)


def test_gradients_of_x_and_of_the_log_determinant_alone_add_up():
    torch.manual_seed(3)
    step = SplineAutoregressive(6, (16,), SplineShape(5, 3.0))
    with torch.no_grad():
        for p in step.parameters():
            p += 0.1 * torch.randn_like(p)
    y = torch.randn(5, 6, requires_grad=True)
    leaves = [y, *step.parameters()]

    def gradients(by_x, by_log_det):
        x, log_det = step.inverse(y)
        loss = by_x * x.sin().sum() if by_x else 0.0
        loss = loss + by_log_det * log_det.square().sum() if by_log_det else loss
        return torch.autograd.grad(loss, leaves)

    for both, *alone in zip(gradients(1, 1), gradients(1, 0), gradients(0, 1), strict=True):
        torch.testing.assert_close(both, sum(alone), rtol=1e-4, atol=1e-4)
