from __future__ import annotations

import math

import pytest
import torch

from dgm_fast.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
    GaussianMixtureConditional,
)

K = 4
D = 3
CONDITIONALS = [
    BernoulliConditional(),
    CategoricalConditional(K),
    DiscretizedLogisticConditional(K),
    GaussianConditional(),
    GaussianMixtureConditional(K),
]
INTEGERS = CategoricalConditional | DiscretizedLogisticConditional
every = pytest.mark.parametrize("conditional", CONDITIONALS, ids=lambda c: type(c).__name__)


def parameters_of(conditional, *shape, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(*shape, D, conditional.parameters_per_feature, dtype=dtype)


def values_of(conditional, *shape):
    x = torch.rand(*shape, D, dtype=torch.float64)
    if isinstance(conditional, INTEGERS):
        return (x * K).floor()

    return x.round() if isinstance(conditional, BernoulliConditional) else 4 * x - 2


def gaussian(x, mean, log_scale):
    return -0.5 * ((x - mean) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def logistic_mass(x, mean, log_scale):
    """The difference of two values of the cumulative distribution, 0 and 1 at the ends."""
    value, half = 2 * x / (K - 1) - 1, 1 / (K - 1)
    upper = torch.sigmoid((value + half - mean) / log_scale.exp())
    lower = torch.sigmoid((value - half - mean) / log_scale.exp())
    return torch.where(x == K - 1, 1, upper) - torch.where(x == 0, 0, lower)


def test_log_probs_against_their_formulas():
    by_hand = {
        BernoulliConditional: lambda x, p: torch.sigmoid((2 * x - 1) * p[..., 0]).log(),
        CategoricalConditional: lambda x, p: (
            p.softmax(-1).gather(-1, x.long()[..., None])[..., 0].log()
        ),
        DiscretizedLogisticConditional: lambda x, p: logistic_mass(x, p[..., 0], p[..., 1]).log(),
        GaussianConditional: lambda x, p: gaussian(x, p[..., 0], p[..., 1]),
        GaussianMixtureConditional: lambda x, p: (
            p[..., :K].softmax(-1)
            * gaussian(x[..., None], p[..., K : 2 * K], p[..., 2 * K :]).exp()
        ).sum(-1).log(),
    }  # fmt: skip
    for conditional in CONDITIONALS:
        p, x = parameters_of(conditional, 5, 2), values_of(conditional, 5, 2)
        expected = by_hand[type(conditional)](x, p).sum(-1)
        torch.testing.assert_close(conditional.log_prob(p, x), expected)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_parameters_are_computed_on_in_float32(conditional, dtype):
    p = parameters_of(conditional, 50, dtype=dtype)
    x = values_of(conditional, 50)
    x = x.to(dtype)

    log_prob = conditional.log_prob(p, x)

    assert log_prob.dtype is torch.float32
    exact = conditional.log_prob(p.double(), x.double())
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-5, atol=1e-5)


@every
def test_gradients(conditional):
    p = parameters_of(conditional, 2).requires_grad_()
    x = values_of(conditional, 2)
    assert torch.autograd.gradcheck(lambda p: conditional.log_prob(p, x), p)


@every
def test_picks_follow_the_distribution(conditional):
    n = 4000
    p = parameters_of(conditional).expand(n, D, -1)
    seed = torch.tensor(1)
    noise = conditional.draw_noise(n, D, seed, torch.float64)

    x = conditional.pick(p, noise)

    assert noise.shape == (n, D, len(conditional.noise_kinds))
    distribution = conditional.distribution(p[0]).base_dist
    if isinstance(conditional, BernoulliConditional | INTEGERS):
        for value in range(2 if isinstance(conditional, BernoulliConditional) else K):
            probability = distribution.log_prob(torch.full((D,), value).double()).exp()
            share = (x == value).double().mean(0)
            # Five standard deviations of a share.
            assert bool(((share - probability).abs() < 5 * (probability / n).sqrt()).all())
    else:
        ranks = distribution.cdf(x).sort(0).values
        uniform = torch.arange(n, dtype=torch.float64)[:, None] / n
        # Kolmogorov's distance exceeds 2.7 / sqrt(n) once in a million.
        assert float((ranks - uniform).abs().max()) < 2.7 / math.sqrt(n)


@every
def test_means_are_those_of_the_picks(conditional):
    n = 4000
    p = parameters_of(conditional).expand(n, D, -1)
    noise = conditional.draw_noise(n, D, torch.tensor(1), torch.float64)
    x = conditional.pick(p, noise)

    # Five standard errors.
    bound = 5 * x.std(0) / math.sqrt(n)
    assert bool(((x.mean(0) - conditional.mean(p)[0]).abs() < bound).all())


def test_extreme_uniforms_pick_valid_categories():
    conditional = CategoricalConditional(K)
    noise = torch.tensor([0.0, 1 - 2**-24]).view(2, 1)

    for logits in (torch.zeros(2, K), torch.tensor([[90.0, 0, 0, 0], [0, 0, 0, 90.0]])):
        x = conditional.pick(logits, noise)
        assert x[0] == 0
        assert x[1] == K - 1

    # A category of probability 0 is never picked, not even by the smallest uniform.
    assert conditional.pick(torch.tensor([[-200.0, 0, 0, 0]]), noise[:1]) == 1


def test_noise_is_that_of_the_seed_and_the_sample():
    conditional = GaussianMixtureConditional(K)
    noise = conditional.draw_noise(6, D, torch.tensor(3), torch.float32)

    assert torch.equal(noise[:2], conditional.draw_noise(2, D, torch.tensor(3), torch.float32))
    assert not torch.equal(noise, conditional.draw_noise(6, D, torch.tensor(4), torch.float32))
    assert bool((noise[..., 0] >= 0).all() and (noise[..., 0] < 1).all())
    assert bool((noise[..., 1] < 0).any())


def test_encoding_of_integers():
    for conditional in (CategoricalConditional(K), DiscretizedLogisticConditional(K)):
        encoded = conditional.encode(torch.arange(4.0))
        torch.testing.assert_close(encoded, torch.tensor([-1, -1 / 3, 1 / 3, 1]))


@pytest.mark.parametrize(
    ("conditional", "x", "match"),
    [
        (BernoulliConditional(), torch.tensor([0.5, 1.5]), r"\[0, 1\]; got 0.5 to 1.5"),
        (BernoulliConditional(), torch.tensor([-1, 0]), r"\[0, 1\]; got -1 to 0"),
        (CategoricalConditional(K), torch.tensor([0, 4]), r"\[0, 3\]; got 0 to 4"),
        (CategoricalConditional(K), torch.tensor([0.0, 1.5]), "integers"),
        (DiscretizedLogisticConditional(K), torch.tensor([0, 4]), r"\[0, 3\]; got 0 to 4"),
        (DiscretizedLogisticConditional(K), torch.tensor([0.0, 1.5]), "integers"),
    ],
)
def test_values_outside_the_support(conditional, x, match):
    with pytest.raises(ValueError, match=f"x must hold .*{match}"):
        conditional.check_values(x)


@every
def test_values_inside_the_support(conditional):
    conditional.check_values(values_of(conditional, 20))
    conditional.check_values(torch.zeros(0, D))
