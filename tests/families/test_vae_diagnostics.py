"""Diagnostics of a latent whose use is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dgm_fast.families import VAE, VAEConfig
from dgm_fast.families.latent import latent_diagnostics


def make_channel(gains, log_var):
    """A VAE whose posterior is N(gain x, exp(log_var)) in each dimension, for x in R."""
    config = VAEConfig((1,), "gaussian", latent_features=len(gains), hidden=())
    model = VAE(config, dtype=torch.float64).eval()
    with torch.no_grad():
        model.posterior.weight.zero_()
        model.posterior.weight[: len(gains), 0] = torch.tensor(gains).double()
        model.posterior.bias.zero_()
        model.posterior.bias[len(gains) :] = torch.tensor(log_var).double()

    return model


def test_active_units_are_those_whose_mean_varies():
    model = make_channel([1.0, 0.0, 0.05, 0.2], [0.0, 0.0, -1.0, 0.0])
    x = torch.linspace(-1.7, 1.7, 200).double().unsqueeze(1)

    figures = latent_diagnostics(model, x)

    torch.testing.assert_close(
        figures.mean_variance, x.var() * torch.tensor([1.0, 0.0, 0.05, 0.2]).double().square()
    )
    assert figures.active.tolist() == [True, False, False, True]
    assert model.diagnostics(x)["active_units"] == 2
    assert model.diagnostics(x)["latent_units"] == 4


def test_kl_of_each_dimension():
    model = make_channel([1.0, 0.0, 0.5], [-2.0, 0.0, 1.0])
    x = torch.randn(50, 1).double()
    mean, log_var = model.encode(x)

    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).mean(0).detach()

    figures = latent_diagnostics(model, x)
    torch.testing.assert_close(figures.kl_nats, expected)
    assert float(figures.kl_nats[1]) == 0
    assert model.diagnostics(x)["kl_to_standard_normal_nats"] == pytest.approx(
        float(expected.sum())
    )


def test_mutual_information_of_a_gaussian_channel():
    torch.manual_seed(0)
    gain, log_var = 3.0, -0.5
    x = torch.randn(3000, 1).double()

    figures = latent_diagnostics(make_channel([gain], [log_var]), x)

    exact = 0.5 * math.log1p(gain**2 / math.exp(log_var))
    # One draw from each of 3000 rows: the standard error of the mean is about 0.02.
    assert figures.mutual_information_nats == pytest.approx(exact, abs=0.1)


def test_mutual_information_of_a_collapsed_and_of_a_separating_latent():
    x = torch.arange(20).double().unsqueeze(1)

    collapsed = latent_diagnostics(make_channel([0.0, 0.0], [0.0, 0.0]), x)
    separating = latent_diagnostics(make_channel([1.0, 0.0], [-12.0, 0.0]), x)

    assert abs(collapsed.mutual_information_nats) < 1e-12
    assert separating.mutual_information_nats == pytest.approx(math.log(20))


def test_single_precision_gives_the_same_figures():
    """In float32 the densities run on the kernel."""
    torch.manual_seed(2)
    x = torch.randn(300, 1).double()
    model = make_channel([3.0, 0.5], [-0.5, -1.0])
    exact = latent_diagnostics(model, x, generator=torch.Generator().manual_seed(1))
    single = latent_diagnostics(
        model.float(), x.float(), generator=torch.Generator().manual_seed(1)
    )

    torch.testing.assert_close(single.kl_nats, exact.kl_nats, rtol=1e-5, atol=1e-6)
    # Means up to 9 round by 5e-7, over a standard deviation of 0.8 and times a distance of 3.
    assert single.mutual_information_nats == pytest.approx(exact.mutual_information_nats, abs=1e-5)


def test_one_row_has_no_variance():
    with pytest.raises(ValueError, match="x must have at least two rows"):
        latent_diagnostics(make_channel([1.0], [0.0]), torch.zeros(1, 1).double())
