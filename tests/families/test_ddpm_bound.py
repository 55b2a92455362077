"""The variational bound equals what it is in closed form, without any training."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from dgm_fast.families import DDPM, DDPMConfig
from dgm_fast.families.diffusion import ddpm
from dgm_fast.families.diffusion.bound import BoundTerms, discretized_gaussian_log_prob
from tests.families.diffusion_denoisers import Wobble, gaussian_model, level_model

every_target = pytest.mark.parametrize("target", ["noise", "velocity", "x0"])


def gaussian_data(mean, std, count=20_000, features=2):
    torch.manual_seed(0)
    return mean + std * torch.randn(count, features, dtype=torch.float64)


def assert_mean(values, expected, slack=0.0):
    """The mean over samples is within 5 standard errors, once in two million seeds not."""
    values = values.double()
    error = 5 * values.std(0) / math.sqrt(len(values)) + slack
    assert bool(((values.mean(0) - expected).abs() <= error).all()), (values.mean(0), expected)


def analytic_terms(model, mean, std):
    """L_0, L_1 ... L_{T-1} and L_T of the exact denoiser of N(mean, std^2), expected, in nats."""
    D, schedule = model.features, model.schedule
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    # E (x_0 - E[x_0 | x_t])^2, the variance of a Gaussian given a noisy look at it.
    error = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    terms = D * (schedule.kl_weight.double() * error + schedule.kl_constant.double())
    a, s = alpha[-1], sigma[-1]
    last = D / 2 * (a**2 * (mean**2 + std**2) + s**2 - 1 - torch.log(s**2))
    return terms[0], terms[1:], last


@every_target
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "log_snr"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.3)])
def test_terms_of_an_exact_denoiser(target, variance, schedule, mean, std):
    options = {"variance": variance, "schedule": schedule, "first_log_snr": 8.0}
    model = gaussian_model(mean, std, target=target, **options)
    x = gaussian_data(mean, std, 2000)

    terms = model.bound_terms(x)

    l_0, l_t, l_T = analytic_terms(model, mean, std)
    assert terms.l_t_nats.shape == (2000, 19)
    # The tables' float32 roundings, relative, besides chance.
    assert_mean(terms.l_0_nats, l_0, 1e-5)
    assert_mean(terms.l_t_nats, l_t, 1e-5)
    assert_mean(terms.l_T_nats, l_T, 1e-5)
    assert_mean(terms.total_nats, l_0 + l_t.sum() + l_T, 1e-5)


@every_target
@pytest.mark.parametrize("timesteps", [1, 2, 10, 100])
def test_the_bound_of_standard_normal_data_is_their_entropy(target, timesteps):
    """The large variance is then that of the true reverse step: nothing is lost for any T."""
    model = gaussian_model(0.0, 1.0, target=target, variance="large", timesteps=timesteps)
    entropy = math.log(2 * math.pi * math.e)  # of two values

    l_0, l_t, l_T = analytic_terms(model, 0.0, 1.0)
    assert (l_0 + l_t.sum() + l_T).item() == pytest.approx(entropy, abs=1e-5)
    x = gaussian_data(0.0, 1.0, 2000)
    assert_mean(-model.log_prob(x), entropy, 1e-5)
    assert_mean(model.validation_nats(x), entropy, 1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.3), (0.0, 2.0)])
def test_the_bound_falls_to_the_entropy_with_more_steps(mean, std):
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
    gaps = []
    for timesteps in (10, 100, 1000):
        options = {"variance": "large", "schedule": "log_snr", "first_log_snr": 8.0}
        model = gaussian_model(mean, std, timesteps=timesteps, last_log_snr=-12.0, **options)
        l_0, l_t, l_T = analytic_terms(model, mean, std)
        gaps.append((l_0 + l_t.sum() + l_T).item() - entropy)

    assert all(gap > 0 for gap in gaps)
    assert gaps[2] < gaps[1] / 5 < gaps[0] / 25


@pytest.mark.parametrize("levels", [2, 17])
def test_the_bound_of_grey_levels_is_near_their_entropy(levels):
    torch.manual_seed(0)
    p = torch.rand(levels, dtype=torch.float64).square()
    p = p / p.sum()
    entropy = 3 * -(p * p.log()).sum().item()
    model = level_model(p, timesteps=300)
    x = torch.multinomial(p, 3 * 1000, replacement=True).view(-1, 3)

    bound = -model.log_prob(x)

    error = 5 * bound.std().item() / math.sqrt(len(bound))
    # 300 steps of 0.05 in log signal-to-noise ratio lose about 0.025 of it a value, in nats.
    assert entropy - error < bound.mean().item() < entropy + error + 3 * 0.06


def tiny_model(**options):
    """A model of 4 x 4 images of five grey levels with a bound far from tight."""
    given = {"levels": 5, "timesteps": 12, "schedule": "log_snr", "target": "velocity"}
    return DDPM(DDPMConfig((4, 4), **given | options), network=Wobble()).eval()


def images(count, levels=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, levels, (count, 4, 4), generator=generator).float()


@every_target
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_loss_is_an_unbiased_estimate_of_the_bound(target, variance, monkeypatch):
    model = tiny_model(target=target, variance=variance, loss="bound", timesteps=6)
    x = images(1).expand(400, 4, 4)

    # The training loss does not clip the estimate of x_0, so neither may the bound here.
    monkeypatch.setattr(DDPM, "_clip", None)
    torch.manual_seed(0)
    bound = model.bound_terms(x).total_nats
    losses = torch.stack([model.loss(x) for _ in range(100)])

    spread = bound.std().item() / math.sqrt(len(bound))
    assert abs(losses.mean().item() - bound.mean().item()) < 5 * (
        spread + losses.std().item() / math.sqrt(len(losses))
    )


def test_the_validation_figure_is_an_unbiased_estimate_of_the_bound():
    model = tiny_model()
    x = images(1).expand(200, 4, 4)

    torch.manual_seed(0)
    bound = -model.log_prob(x)
    estimates = torch.stack([model.validation_nats(x) for _ in range(30)])

    # Times are spread over a batch, so it is the means of batches that are independent.
    means = estimates.mean(1)
    error = means.std() / math.sqrt(len(means)) + bound.std() / math.sqrt(len(bound))
    assert abs((means.mean() - bound.mean()).item()) < 5 * error.item()
    assert estimates.shape == (30, 200)


def test_simple_loss_is_the_mean_squared_error_of_the_target():
    model = tiny_model(target="noise")

    class Guess(torch.nn.Module):
        def forward(self, x_t, t, label=None):
            return torch.zeros_like(x_t)

    model.network = Guess()
    torch.manual_seed(0)
    losses = torch.stack([model.loss(images(64)) for _ in range(50)])

    # The target is standard normal noise, a guess of zero is off by its square.
    assert_mean(losses, 1.0)


def test_terms_do_not_depend_on_how_many_times_are_computed_at_once(monkeypatch):
    model = tiny_model()
    x = images(5)
    found = []
    for rows in (1, 7, 10, 512):
        monkeypatch.setattr(ddpm, "_ROWS", rows)
        found.append(model.bound_terms(x, generator=torch.Generator().manual_seed(3)))

    for terms in found[1:]:
        torch.testing.assert_close(terms.l_0_nats, found[0].l_0_nats)
        torch.testing.assert_close(terms.l_t_nats, found[0].l_t_nats)


def test_one_step_has_no_terms_between():
    model = tiny_model(timesteps=1)
    terms = model.bound_terms(images(3))

    assert terms.l_t_nats.shape == (3, 0)
    torch.testing.assert_close(terms.total_nats, terms.l_0_nats + terms.l_T_nats)
    assert model.validation_nats(images(3)).isfinite().all()


def test_bits_per_dim_and_diagnostics():
    terms = BoundTerms(torch.ones(2), torch.full((2, 3), 2.0), torch.zeros(2), features=4)
    nat = 1 / (4 * math.log(2))

    assert terms.mean_bpd() == pytest.approx(
        {"l_0_bpd": nat, "l_t_bpd": 6 * nat, "l_T_bpd": 0.0, "total_bpd": 7 * nat}
    )
    torch.testing.assert_close(terms.per_time_bpd(), torch.full((3,), 2 * nat))

    model = tiny_model()
    torch.manual_seed(2)
    parts = model.diagnostics(images(50))
    torch.manual_seed(2)
    total = model.validation_nats(images(50)).double().mean().item() / (16 * math.log(2))
    assert set(parts) == {"L_0_bpd", "L_1_to_T-1_bpd", "L_T_bpd"}
    assert sum(parts.values()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("mean", [-2.0, -1.0, -0.37, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.3, 4.0])
def test_the_decoder_sums_to_one(levels, mean, scale):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)

    log_p = discretized_gaussian_log_prob(
        x, torch.tensor(mean, dtype=torch.float64), torch.tensor(scale), levels
    )

    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 17])
def test_the_decoder_is_the_mass_of_each_bin(levels):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    mean = torch.linspace(-1.2, 1.3, 50, dtype=torch.float64)[:, None]
    scale = torch.tensor(0.4, dtype=torch.float64)
    edges = (x[1:] + x[:-1]) / 2
    cdf = Normal(mean, scale).cdf(edges)
    zero, one = torch.zeros(50, 1).double(), torch.ones(50, 1).double()
    expected = torch.cat([zero, cdf, one], 1).diff(dim=1)

    log_p = discretized_gaussian_log_prob(x, mean, scale, levels)

    torch.testing.assert_close(log_p.exp(), expected, rtol=1e-9, atol=1e-14)


def test_the_decoders_gradient():
    torch.manual_seed(0)
    x = (torch.randint(0, 9, (40,)).double() / 4) - 1
    mean = torch.empty(40, dtype=torch.float64).uniform_(-1.5, 1.5).requires_grad_()
    scale = torch.empty(40, dtype=torch.float64).uniform_(0.05, 1.0).requires_grad_()

    assert torch.autograd.gradcheck(
        lambda mean, scale: discretized_gaussian_log_prob(x, mean, scale, 9), (mean, scale)
    )


@pytest.mark.parametrize("scale", [1e-4, 0.05])
def test_the_decoder_stays_finite_and_exact_far_away(scale):
    x = torch.linspace(-1, 1, 17)
    for mean in (-1e4, -3.0, 0.1, 50.0):
        far = torch.full((17,), mean, requires_grad=True)
        log_p = discretized_gaussian_log_prob(x, far, torch.tensor(scale), 17)
        (gradient,) = torch.autograd.grad(log_p.sum(), far)
        exact = discretized_gaussian_log_prob(
            x.double(), far.detach().double(), torch.tensor(scale, dtype=torch.float64), 17
        )

        assert bool(log_p.isfinite().all())
        assert bool(gradient.isfinite().all())
        # A bin's edge is rounded to 2^-24 of the mean or of one, which the slope turns into nats.
        slope = (x.double() - mean).abs() / scale**2 + 1 / scale
        rounding = 8 * 2**-24 * (slope * max(1.0, abs(mean)) + exact.abs() + 1)
        assert bool(((log_p.double() - exact).abs() < rounding).all())
