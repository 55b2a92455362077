"""Gradients of x and log_det of a flow's inverse, by all that they depend on."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch.func import functional_call

from dgm_fast.families.flows import masked_autoregressive as steps
from dgm_fast.families.flows.chain import Inverse
from dgm_fast.families.flows.masked_autoregressive import AffineAutoregressive, SplineAutoregressive
from dgm_fast.layers import SplineShape
from dgm_fast.sampling.masked_mlp import BLOCK, MaskedBlocks, sampler
from tests.families import flow_models

KINDS = {
    "standardizing": partial(AffineAutoregressive, standardize=True),
    "affine": partial(AffineAutoregressive, standardize=False),
    "spline": partial(SplineAutoregressive, spline=SplineShape(3, 3.0)),
}


def make(kind, D, hidden, context_features, **options):
    """Return a step away from the identity, y whose x are normal, and a context or None."""
    torch.manual_seed(2)
    step = KINDS[kind](D, hidden, context_features=context_features, **options)
    with torch.no_grad():
        for p in step.parameters():
            p += 0.3 * torch.randn_like(p) / max(1, p.shape[-1] / 8) ** 0.5
    # Some of it beyond the ends of a spline.
    x = 1.5 * torch.randn(4, D)
    context = torch.randn(4, context_features) if context_features else None
    with torch.no_grad():
        return step, step(x, context)[0], context


def check_inverse(flow, *given):
    """Compare with finite differences, of all parameters together and of each that is given."""
    module = Inverse(flow)
    shapes = {name: p.shape for name, p in module.named_parameters()}

    def inverse(flat, *given):
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {name: p.view(shapes[name]) for name, p in zip(shapes, parts, strict=True)}
        return functional_call(module, named, given)

    flat = torch.cat([p.detach().flatten() for p in module.parameters()])
    leaves = [each.requires_grad_() for each in (flat, *given)]
    assert torch.autograd.gradcheck(inverse, leaves, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("D", [1, 5, 11])
@pytest.mark.parametrize(
    ("hidden", "context_features"), [((7, 4), 0), ((5, 6, 5, 6, 5), 2)], ids=["plain", "residual"]
)
def test_gradients_of_the_inverse(kind, D, hidden, context_features, monkeypatch):
    step, y, context = make(kind, D, hidden, context_features, residual=len(hidden) > 2)
    step, y = step.double(), y.double()
    if D == 11:
        # In blocks of 4, 4 and 3.
        for module in (steps, sampler):
            monkeypatch.setattr(module, "BLOCK", 4)
        monkeypatch.setattr(steps, "MaskedBlocks", partial(MaskedBlocks, block=4))
        monkeypatch.setattr(steps, "_solve_transposed", None)

    check_inverse(step, y, *([] if context is None else [context.double()]))


@pytest.mark.parametrize("name", flow_models.CONFIGS)
def test_gradients_of_the_inverse_of_whole_flows(name):
    model, x = flow_models.make(flow_models.CONFIGS[name])
    check_inverse(model, model(x[:3])[0].detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("D", "hidden", "context_features"),
    [(6, (20, 30), 0), (2 * BLOCK + 7, (33, 50, 33), 3)],
    ids=["few", "blocks"],
)
def test_gradients_in_float32(kind, D, hidden, context_features, monkeypatch):
    step, y, context = make(kind, D, hidden, context_features, residual=len(hidden) > 2)
    exact = copy.deepcopy(step).double()

    def gradients(step, *given):
        given = [each.clone().requires_grad_() for each in given if each is not None]
        x, log_det = step.inverse(*given)
        loss = x.sin().sum() + log_det.square().sum() / D
        return torch.autograd.grad(loss, [*given, *step.parameters()])

    def errors(step):
        return [
            float((ours - right).norm() / right.norm())
            for ours, right in zip(gradients(step, y, context), expected, strict=True)
        ]

    expected = gradients(exact, y.double(), None if context is None else context.double())
    found = errors(step)
    monkeypatch.setattr(steps, "_takes_passes", lambda y: True)
    plain = errors(step)
    # What rounding does to passes of the network in plain PyTorch, twice, and a rounding.
    budget = 2 * max(plain) + torch.finfo(torch.float32).eps
    assert max(found) <= budget
