"""From levels to real values: every term of the discrete likelihood is there and right."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dgm_fast.families import NICE, NICEConfig, RealNVP, RealNVPConfig
from dgm_fast.families.flows.dequantization import (
    LogitTransform,
    Scaling,
    UniformDequantization,
    VariationalDequantization,
)

SHAPE = (1, 2, 2)


def variational(std=0.3):
    torch.manual_seed(0)
    module = VariationalDequantization(SHAPE, 4, hidden=8, couplings=2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return module


def levels(B, top=4, shape=SHAPE):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(top, (B, *shape), generator=generator).double()


@pytest.mark.parametrize("module", [UniformDequantization(), variational()], ids=["u", "v"])
def test_noise_stays_in_its_cell_and_follows_the_seed(module):
    x = levels(500)
    torch.manual_seed(3)
    v, log_q = module(x)
    torch.manual_seed(3)
    again, _ = module(x)
    other, _ = module(x)

    assert torch.equal(v.floor(), x)
    assert torch.equal(v, again)
    assert not torch.equal(v, other)
    assert log_q.shape == (500,)


def test_uniform_noise_is_uniform():
    v, log_q = UniformDequantization()(torch.zeros(20_000, 3))
    assert torch.equal(log_q, torch.zeros(20_000))
    # Of uniforms: mean 1/2, variance 1/12, no correlation; five standard errors.
    torch.testing.assert_close(v.mean(0), torch.full((3,), 0.5), atol=0.011, rtol=0)
    torch.testing.assert_close(v.T.cov(), torch.eye(3) / 12, atol=0.004, rtol=0)


def test_variational_density_is_that_of_its_noise():
    module = variational()
    x = levels(1)
    noise = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    image, _ = module.squeeze(x * (2 / 3) - 1)

    def cube(noise):
        return torch.sigmoid(module.transform(noise, image)[0]).flatten()

    jacobian = torch.autograd.functional.jacobian(cube, noise).view(4, 4)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    expected = normal - torch.linalg.slogdet(jacobian).logabsdet

    v, log_q = module.dequantize(x, noise)

    squeezed, _ = module.squeeze(v - x)
    torch.testing.assert_close(squeezed.flatten(), cube(noise))
    torch.testing.assert_close(log_q[0], expected)


def test_variational_density_integrates_to_one():
    x = levels(1).expand(40_000, *SHAPE)
    with torch.no_grad():
        _, log_q = variational(std=0.1)(x)
    # The mean of 1 / q over draws of q is the volume of its support, the unit cube.
    inverse = (-log_q).exp()
    error = float(inverse.std()) / len(x) ** 0.5
    assert error < 0.05
    assert abs(float(inverse.mean()) - 1) < 5 * error


def test_the_variational_noise_depends_on_the_image():
    module = variational()
    noise = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    dark, _ = module.dequantize(torch.zeros(1, *SHAPE).double(), noise)
    light, _ = module.dequantize(torch.full((1, *SHAPE), 3.0).double(), noise)
    assert not torch.allclose(dark, light - 3, atol=1e-3)


@pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.3])
@pytest.mark.parametrize("top", [1, 17, 256])
def test_logit_and_its_log_det(alpha, top):
    transform = LogitTransform(alpha, top)
    x = torch.rand(5, 3, dtype=torch.float64) * top
    x[0, 0], x[1, 1] = 0, top

    y, log_det = transform(x)
    slopes = torch.autograd.functional.jacobian(lambda v: transform(v)[0].sum(0), x)
    again, back = transform.inverse(y)

    p = alpha + (1 - 2 * alpha) * x / top
    torch.testing.assert_close(y, torch.logit(p))
    expected = torch.stack([slopes[i, :, i].log() for i in range(3)]).sum(0)
    torch.testing.assert_close(log_det, expected)
    torch.testing.assert_close(again, x, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(back, -log_det, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("end", ["lower", "upper"])
def test_logit_keeps_its_precision_at_both_ends(end):
    transform = LogitTransform(1e-6, 256)
    x = torch.arange(64) * 2.0**-15
    x = (x if end == "lower" else 256 - x)[:, None]
    y, log_det = transform(x)
    y64, log_det64 = transform(x.double())
    torch.testing.assert_close(y.double(), y64, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det.double(), log_det64, rtol=1e-6, atol=1e-6)


def test_scaling():
    transform = Scaling(8)
    x = torch.tensor([[0.0, 4.0, 8.0]], dtype=torch.float64)
    y, log_det = transform(x)
    again, back = transform.inverse(y)
    assert y.tolist() == [[-1, 0, 1]]
    assert torch.equal(again, x)
    torch.testing.assert_close(log_det, torch.tensor([3 * math.log(1 / 4)]).double())
    assert torch.equal(back, -log_det)


def discrete_model(alpha):
    torch.manual_seed(0)
    model = NICE(NICEConfig((2,), levels=3, hidden=(16,), logit_alpha=alpha)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def exact_log_probs(model, points=400):
    """log P of every state of two features with three levels, by the midpoint rule in each cell."""
    inside = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    cell = torch.cartesian_prod(inside, inside)
    states = torch.tensor(list(itertools.product(range(3), repeat=2)), dtype=torch.float64)
    with torch.no_grad():
        log_probs = [model._density(state + cell, None).exp().mean().log() for state in states]
    return states, torch.stack(log_probs)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_log_prob_is_a_lower_bound_of_the_exact_sum(alpha):
    model = discrete_model(alpha)
    states, exact = exact_log_probs(model)
    assert float(exact.exp().sum()) < 1 + 1e-6

    torch.manual_seed(0)
    draws = 4000
    with torch.no_grad():
        single = model.log_prob(states.repeat(draws, 1)).view(draws, -1)
        many = model.log_prob(states, samples=50_000)

    error = single.std(0) / draws**0.5
    assert bool((single.mean(0) <= exact + 5 * error).all())
    assert bool((single.mean(0) < exact - 5 * error).any())
    # With many samples it becomes the exact one.
    torch.testing.assert_close(many, exact, atol=0.05, rtol=0)


def test_a_uniform_model_has_the_nats_of_counting():
    # Scaled to [-1, 1] under an almost flat base, every state of 8 levels costs log 8 a pixel.
    class Flat(torch.nn.Module):
        def log_prob(self, z):
            return torch.full((len(z),), -4 * math.log(2.0))

    model = NICE(NICEConfig((4,), levels=8, hidden=(4,))).eval()
    model.base = Flat()
    log_prob = model.log_prob(levels(6, 8, (4,)).float())
    torch.testing.assert_close(log_prob, torch.full((6,), -4 * math.log(8.0)))


def test_variational_parameters_are_trained_through_the_bound():
    config = RealNVPConfig(
        (1, 4, 4), levels=4, hidden=4, blocks=0, dequantization="variational", reversible=True
    )
    model = RealNVP(config)
    model.loss(levels(8, 4, (1, 4, 4)).float()).backward()
    gradients = [p.grad for p in model.dequantization.parameters()]
    assert any(g is not None and bool(g.abs().max() > 0) for g in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": None}, "levels must be given"),
        ({"event_shape": (1, 3, 4)}, "event_shape must have H and W divisible by 2"),
        ({"event_shape": (6,)}, "event_shape must be"),
        ({"dequantization": "gaussian"}, "dequantization must be"),
        ({"dequantization_hidden": 0}, "dequantization_hidden must be"),
    ],
)
def test_bad_settings(options, message):
    good = {"event_shape": (1, 4, 4), "levels": 4, "dequantization": "variational"}
    with pytest.raises(ValueError, match=message):
        NICEConfig(**good | options)
