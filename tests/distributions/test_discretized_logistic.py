"""A discretized logistic is a distribution over its levels, for all parameters float32 can hold."""

from __future__ import annotations

import itertools

import pytest
import torch

from dgm_fast.distributions import DiscretizedLogistic

LOCS = [-3.0, -1.0, -0.2, 0.0, 0.4, 1.0, 8.0]
LOG_SCALES = [-9.0, -7.0, -4.0, -1.0, 0.0, 2.0, 20.0]


def all_log_probs(loc, log_scale, levels):
    """The log-probability of every level (L, N)."""
    p = DiscretizedLogistic(loc, log_scale, levels, validate_args=False)
    return p.log_prob(torch.arange(levels, dtype=loc.dtype).unsqueeze(-1))


def grid(locs, log_scales, dtype):
    return torch.tensor(list(itertools.product(locs, log_scales)), dtype=dtype).unbind(-1)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_sum_to_one(levels):
    log_p = all_log_probs(*grid(LOCS, LOG_SCALES, torch.float64), levels)

    # The masses telescope, each of L terms carrying some roundings of a number of order ten.
    assert float(log_p.logsumexp(0).abs().max()) < levels * 1e-14


def test_against_the_difference_of_cumulative_probabilities():
    L = 17
    loc, log_scale = grid(LOCS[1:-1], [-2.0, -1.0, 0.0, 2.0], torch.float64)
    borders = (2 * torch.arange(L - 1, dtype=torch.float64).unsqueeze(-1) + 1) / (L - 1) - 1
    below = torch.sigmoid((borders - loc) / log_scale.exp())
    ones = torch.ones_like(below[:1])

    mass = torch.cat([below, ones]) - torch.cat([0 * ones, below])

    # The difference loses what both sides have in common: 2^-53 against a mass of 1e-7 or more.
    assert float(mass.min()) > 1e-7
    torch.testing.assert_close(all_log_probs(loc, log_scale, L).exp(), mass, rtol=1e-8, atol=0)


@pytest.mark.parametrize("levels", [2, 256])
def test_finite_with_finite_gradients_for_extreme_parameters(levels):
    locs = [-1e30, -1e4, -1.0, -1 / 255, 0.0, 1.0, 1e4, 1e30]
    log_scales = [-1e30, -200.0, -7.0, -6.9, 0.0, 12.0, 90.0, 120.0, 1e30]
    loc, log_scale = (t.requires_grad_() for t in grid(locs, log_scales, torch.float32))

    log_p = all_log_probs(loc, log_scale, levels)
    gradients = torch.autograd.grad(log_p.sum(), (loc, log_scale))

    assert bool(log_p.isfinite().all())
    assert bool((log_p <= 0).all())
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_float32_keeps_the_mass_of_far_levels():
    # Where the two sides of a cell agree to 24 bits, their float32 difference is 0.
    loc, log_scale = grid([-0.9, 0.0, 0.9], [-3.0, -1.0, 8.0, 15.0], torch.float64)
    exact = all_log_probs(loc, log_scale, 256)

    log_p = all_log_probs(loc.float(), log_scale.float(), 256)

    # Arguments reach 2 e^3 and carry a few roundings each.
    torch.testing.assert_close(log_p.double(), exact, rtol=0, atol=40 * 8 * 2**-24)


def test_gradients_on_both_branches_of_the_width():
    torch.manual_seed(0)
    loc = torch.randn(6, dtype=torch.float64).requires_grad_()
    log_scale = torch.tensor([-3.0, -1.0, 0.0, 5.0, 14.0, 20.0]).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda m, s: all_log_probs(m, s, 17), (loc, log_scale))


def test_samples_follow_the_masses():
    torch.manual_seed(0)
    n, L = 20_000, 5
    loc, log_scale = torch.tensor([-0.8, 0.1]).double(), torch.tensor([-1.0, 0.3]).double()

    x = DiscretizedLogistic(loc, log_scale, L).sample((n,))

    probability = all_log_probs(loc, log_scale, L).exp()
    share = torch.stack([(x == k).double().mean(0) for k in range(L)])
    # Five standard deviations of a share.
    assert bool(((share - probability).abs() < 5 * (probability / n).sqrt()).all())


def test_mean_is_the_sum_over_levels():
    loc, log_scale = grid(LOCS, LOG_SCALES, torch.float64)
    probability = all_log_probs(loc, log_scale, 17).exp()
    expected = (torch.arange(17).double().unsqueeze(-1) * probability).sum(0)

    torch.testing.assert_close(DiscretizedLogistic(loc, log_scale, 17).mean, expected)


def test_values_outside_the_support():
    p = DiscretizedLogistic(torch.zeros(2), torch.zeros(2), 17, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor([0.0, 17.0]))
