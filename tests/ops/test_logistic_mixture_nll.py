"""The mathematics of `logistic_mixture_nll`: its bins, its order, its limits."""

from __future__ import annotations

import math

import pytest
import torch

from tests.contract.subjects import each_subject

implementations = each_subject(op="logistic_mixture_nll")


def draw(*shape, seed=0, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def grey_levels(device="cpu"):
    """Return every value of a pixel, one a sample."""
    return (torch.arange(256).view(-1, 1, 1) / 127.5 - 1).to(device)


def sigmoid_differences(x, params, components):
    """Compute it in float64 as the paper has it, a component and a channel at a time."""
    x, params = x.double(), params.double()
    channels = x.shape[1]
    per_channel = 2 if channels == 1 else 3

    def plane(channel, kind, k):
        return params[:, components + (channel * per_channel + kind) * components + k]

    logits = params[:, :components].log_softmax(1)
    exponents = []
    for k in range(components):
        exponent = logits[:, k]
        for c in range(channels):
            mean, scale = plane(c, 0, k), plane(c, 1, k).clamp(min=-7).exp()
            if c == 1:
                mean = mean + plane(0, 2, k).tanh() * x[:, 0]
            if c == 2:
                mean = mean + plane(1, 2, k).tanh() * x[:, 0] + plane(2, 2, k).tanh() * x[:, 1]
            lower = ((x[:, c] - mean - 1 / 255) / scale).sigmoid()
            upper = ((x[:, c] - mean + 1 / 255) / scale).sigmoid()
            lower = torch.where(x[:, c] < -0.999, 0.0, lower)
            upper = torch.where(x[:, c] > 0.999, 1.0, upper)
            exponent = exponent + (upper - lower).log()
        exponents.append(exponent)
    return -torch.stack(exponents).logsumexp(0).flatten(1).sum(1)


@implementations
@pytest.mark.parametrize("components", [1, 7])
def test_the_values_of_a_pixel_have_a_probability_of_one(subject, components):
    for seed in range(8):
        params = draw(1, 3 * components, 1, seed=seed, device=subject.device)
        params = (1.5 * params).expand(256, -1, -1)
        nll = subject.run({"x": grey_levels(subject.device), "params": params})
        total = (-nll.double()).exp().sum().item()
        assert abs(total - 1) <= 1e-6


@implementations
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_papers_formula_in_its_order(subject, channels):
    components, each = 4, 3 if channels == 1 else 10
    values = torch.randint(256, (5, channels, 6, 7), generator=torch.Generator().manual_seed(1))
    values[0] = 0
    values[1] = 255
    x = (values / 127.5 - 1).to(subject.device)
    params = 0.7 * draw(5, components * each, 6, 7, seed=2, device=subject.device)

    expected = sigmoid_differences(x, params, components)
    torch.testing.assert_close(
        subject.run({"x": x, "params": params}).double(), expected, rtol=1e-5, atol=0
    )


@implementations
def test_the_outermost_values_take_the_tails(subject):
    mean, log_scale = 0.3, -1.0
    params = torch.tensor([0.0, mean, log_scale], device=subject.device).view(1, 3, 1)
    x = torch.tensor([-1.0, 1.0], device=subject.device).view(2, 1, 1)
    nll = subject.run({"x": x, "params": params.expand(2, -1, -1)})

    ends = [(-1 - mean + 1 / 255) * math.e, (1 - mean - 1 / 255) * math.e]
    expected = [math.log1p(math.exp(-ends[0])), math.log1p(math.exp(ends[1]))]
    torch.testing.assert_close(nll.cpu(), torch.tensor(expected), rtol=1e-6, atol=0)


@implementations
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [10.0, 1e3, 1e6, 1e30])
def test_it_is_finite_for_any_parameters(subject, channels, size):
    planes = 5 * (3 if channels == 1 else 10)
    params = size * draw(8, planes, 4, 5, seed=3, device=subject.device)
    params.requires_grad_()
    values = torch.randint(256, (8, channels, 4, 5), generator=torch.Generator().manual_seed(4))
    x = (values / 127.5 - 1).to(subject.device)

    nll = subject.run({"x": x, "params": params})
    (grad,) = torch.autograd.grad(nll.sum(), params)
    assert nll.isfinite().all()
    assert grad.isfinite().all()


@implementations
def test_a_scale_below_the_least_has_no_gradient(subject):
    params = draw(3, 3, 4, seed=5, device=subject.device)
    params[:, 2] = -7.5
    lowest = params.clone()
    lowest[:, 2] = -7
    params.requires_grad_()
    x = torch.zeros(3, 1, 4, device=subject.device)

    nll = subject.run({"x": x, "params": params})
    (grad,) = torch.autograd.grad(nll.sum(), params)
    assert torch.equal(nll, subject.run({"x": x, "params": lowest}))
    assert (grad[:, 2] == 0).all()
    assert (grad[:, 1] != 0).any()


@implementations
def test_a_component_of_no_weight_changes_nothing(subject):
    params = draw(4, 2 * 10, 3, 3, seed=6, device=subject.device)
    values = torch.randint(256, (4, 3, 3, 3), generator=torch.Generator().manual_seed(7))
    x = (values / 127.5 - 1).to(subject.device)
    one = subject.run({"x": x, "params": params[:, ::2].contiguous()})

    params[:, 1] = -torch.inf
    torch.testing.assert_close(subject.run({"x": x, "params": params}), one)
