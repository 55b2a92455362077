"""The mathematics of `gated_activation`, on every implementation that runs here."""

from __future__ import annotations

import torch

from dgm_fast.ops import gated_activation
from tests.contract.subjects import each_subject

implementations = each_subject(op="gated_activation")
kernels = each_subject(op="gated_activation", reference=False)


@implementations
def test_an_open_gate_is_tanh_and_a_shut_one_zero(subject):
    a = torch.linspace(-4, 4, 33)
    gates = torch.tensor([100.0, -200.0])[:, None].expand(2, 33)
    x = torch.cat((a.expand(2, 33), gates), dim=1).to(subject.device)

    open_, shut = gated_activation(x, impl=subject.implementation.name).cpu()
    torch.testing.assert_close(open_, a.tanh(), rtol=1e-6, atol=0)
    assert not shut.any()


@implementations
def test_no_value_is_above_one_and_none_of_finite_ones_is_nan(subject):
    values = torch.tensor([0.0, 1e-38, 1e-3, 1.0, 30.0, 88.0, 89.0, 1e4, 3e38])
    values = torch.cat((values, -values))
    pairs = torch.cartesian_prod(values, values).to(subject.device).requires_grad_()

    y = gated_activation(pairs, impl=subject.implementation.name)
    (grad,) = torch.autograd.grad(y.sum(), pairs)
    assert (y.abs() <= 1).all()
    assert (grad.abs() <= 1).all()


@kernels
def test_channels_last_stays_and_changes_nothing(subject):
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0)).to(subject.device)
    last = x.contiguous(memory_format=torch.channels_last)

    y = gated_activation(last, impl=subject.implementation.name)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, gated_activation(x, impl=subject.implementation.name))
