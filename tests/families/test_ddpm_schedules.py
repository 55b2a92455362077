"""Schedules, and what follows from them in closed form, against direct computation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dgm_fast.families.diffusion.config import DDPMConfig
from dgm_fast.families.diffusion.parametrization import convert
from dgm_fast.families.diffusion.schedules import (
    Schedule,
    cosine_betas,
    draw_times,
    gaussian_posterior,
    linear_betas,
    log_snr_betas,
)

T = 50
BETAS = {
    "linear": linear_betas(T),
    "cosine": cosine_betas(T),
    "log_snr": log_snr_betas(T, 8.0, -5.0),
}
every_schedule = pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS)
every_target = pytest.mark.parametrize("target", ["noise", "velocity", "x0"])
every_variance = pytest.mark.parametrize("variance", ["small", "large"])

# Tables are float32: half a unit in the last place of each, and of what is made of them.
FLOAT32 = {"rtol": 4 * 2**-24, "atol": 2**-24}


def at(schedule, t):
    """alpha_t, sigma_t, alpha_s, sigma_s in float64, with s = t - 1 and -1 the data."""
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    if t == 0:
        return alpha[0], sigma[0], torch.ones_like(alpha[0]), torch.zeros_like(sigma[0])
    return alpha[t], sigma[t], alpha[t - 1], sigma[t - 1]


def test_linear_betas_are_the_papers():
    betas = linear_betas(1000)

    assert betas[0].item() == pytest.approx(1e-4)
    assert betas[-1].item() == pytest.approx(0.02)
    torch.testing.assert_close(betas.diff(), torch.full_like(betas[1:], betas[1] - betas[0]))
    # The noise of all steps together is near that of T = 1000, whatever T is.
    assert linear_betas(100).sum().item() == pytest.approx(betas.sum().item())


def test_cosine_signal_is_the_papers():
    place = torch.arange(1, 101, dtype=torch.float64) / 100
    f = torch.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2
    expected = f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2

    signal = (1 - cosine_betas(100)).cumprod(0)

    # The last variance is one by the formula and held at 0.999.
    torch.testing.assert_close(signal[:-1], expected[:-1])
    assert cosine_betas(100)[-1] == 0.999


def test_log_snr_falls_linearly():
    schedule = Schedule(log_snr_betas(21, 9.0, -4.0))

    log_snr = 2 * (schedule.alpha.double() / schedule.sigma.double()).log()

    expected = torch.linspace(9, -4, 21, dtype=torch.float64)
    torch.testing.assert_close(log_snr, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        DDPMConfig(schedule="linear", timesteps=1000),
        DDPMConfig(schedule="cosine", timesteps=4000),
        DDPMConfig(schedule="log_snr", timesteps=1000),
        DDPMConfig(schedule="log_snr", levels=2, timesteps=10),
        DDPMConfig(schedule="linear", timesteps=1),
    ],
    ids=["linear", "cosine", "log_snr", "binary", "one step"],
)
def test_variance_is_preserved_and_noise_grows(config):
    schedule = Schedule(config.betas())
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()

    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=2**-23)
    assert bool((sigma.diff() > 0).all())
    # So near one as to be equal in float32.
    assert bool((alpha.diff() <= 0).all())
    assert bool((schedule.kl_weight > 0).all())
    assert bool((schedule.kl_constant[1:] >= 0).all())


def test_first_noise_leaves_grey_levels_apart():
    for levels in (2, 17, 256):
        schedule = Schedule(DDPMConfig(levels=levels, schedule="log_snr").betas())
        half_a_level = 1 / (levels - 1)
        assert half_a_level / schedule.sigma[0].item() == pytest.approx(3.4, rel=0.05)


@every_schedule
@pytest.mark.parametrize("t", [0, 1, 2, 25, T - 1])
@pytest.mark.parametrize(("x0", "x_t"), [(0.3, -0.4), (-1.0, 2.0)])
def test_posterior_is_the_product_of_gaussians(betas, t, x0, x_t):
    alpha_t, sigma_t, alpha_s, sigma_s = at(Schedule(betas), t)
    if t == 0:
        # The data have no noise of their own: take a little, whose limit the closed form is.
        sigma_s = torch.tensor(1e-3, dtype=torch.float64)
    ratio = alpha_t / alpha_s
    added = (sigma_t**2 - ratio**2 * sigma_s**2).sqrt()

    posterior = gaussian_posterior(alpha_t, sigma_t, alpha_s, sigma_s)
    mean = posterior.of_x_t * x_t + posterior.of_x0 * x0

    # q(x_s | x_0) q(x_t | x_s) on a grid as wide as the wider factor is tall; the trapezoid rule
    # is exact to rounding for a Gaussian that spans many steps.
    narrow = float((1 / (1 / sigma_s**2 + ratio**2 / added**2)).sqrt())
    centre = float(mean)
    x_s = torch.linspace(centre - 12 * narrow, centre + 12 * narrow, 4001, dtype=torch.float64)
    log_p = Normal(alpha_s * x0, sigma_s).log_prob(x_s) + Normal(ratio * x_s, added).log_prob(
        torch.tensor(x_t, dtype=torch.float64)
    )
    p = (log_p - log_p.max()).exp()
    p = p / p.sum()
    numerical_mean = (p * x_s).sum()
    numerical_variance = (p * (x_s - numerical_mean) ** 2).sum()

    torch.testing.assert_close(mean, numerical_mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.variance, numerical_variance, rtol=1e-9, atol=0)


@every_schedule
def test_a_step_onto_the_data_is_the_data(betas):
    posterior = gaussian_posterior(*at(Schedule(betas), 0))
    assert (posterior.of_x_t, posterior.of_x0, posterior.variance) == (0, 1, 0)


@every_schedule
@every_variance
@pytest.mark.parametrize("t", [1, 2, 25, T - 1])
def test_bound_weights_are_the_kl_of_two_gaussians(betas, variance, t):
    schedule = Schedule(betas, variance)
    torch.manual_seed(0)
    x0, estimate, x_t = torch.randn(3, 7, dtype=torch.float64)
    alpha_t, sigma_t, alpha_s, sigma_s = at(schedule, t)
    posterior = gaussian_posterior(alpha_t, sigma_t, alpha_s, sigma_s)
    added = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2

    q = Normal(posterior.of_x_t * x_t + posterior.of_x0 * x0, posterior.variance.sqrt())
    chosen = posterior.variance if variance == "small" else added
    p = Normal(posterior.of_x_t * x_t + posterior.of_x0 * estimate, chosen.sqrt())
    expected = kl_divergence(q, p).sum()

    error = (x0 - estimate).square().sum()
    got = schedule.kl_weight[t].double() * error + 7 * schedule.kl_constant[t].double()
    torch.testing.assert_close(got, expected, **FLOAT32)


@every_schedule
def test_the_small_variance_weight_is_half_the_loss_of_signal_to_noise(betas):
    schedule = Schedule(betas)
    snr = (schedule.alpha.double() / schedule.sigma.double()) ** 2

    torch.testing.assert_close(schedule.kl_weight[1:].double(), -snr.diff() / 2, **FLOAT32)
    assert not schedule.kl_constant[1:].any()


@every_variance
def test_the_decoders_weights_are_a_gaussians(variance):
    schedule = Schedule(BETAS["cosine"], variance)
    x0, estimate = torch.randn(2, 7, dtype=torch.float64)

    expected = -Normal(estimate, schedule.decoder_variance.double().sqrt()).log_prob(x0).sum()

    error = (x0 - estimate).square().sum()
    got = schedule.kl_weight[0].double() * error + 7 * schedule.kl_constant[0].double()
    torch.testing.assert_close(got, expected, **FLOAT32)


def test_the_decoders_variance_is_the_first_one_there_is():
    betas = BETAS["cosine"]
    small, large = Schedule(betas, "small"), Schedule(betas, "large")

    assert large.decoder_variance.item() == pytest.approx(betas[0].item(), rel=1e-6)
    second = gaussian_posterior(*at(small, 1)).variance
    assert small.decoder_variance.item() == pytest.approx(second.item(), rel=1e-6)
    assert Schedule(betas[:1], "small").decoder_variance.item() == pytest.approx(betas[0].item())


@every_schedule
@every_target
def test_target_weight_is_that_of_x0_in_units_of_the_target(betas, target):
    schedule = Schedule(betas, "small", target)
    torch.manual_seed(0)
    x0, noise, predicted = torch.randn(3, T, 7, dtype=torch.float64)
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    x_t = alpha[:, None] * x0 + sigma[:, None] * noise
    right = convert(noise, x_t, alpha, sigma, "noise", target)

    estimate = convert(predicted, x_t, alpha, sigma, target, "x0")

    of_x0 = schedule.kl_weight.double() * (estimate - x0).square().sum(1)
    of_target = schedule.target_weight.double() * (predicted - right).square().sum(1)
    # 1 / alpha^2 amplifies the tables' rounding, which alpha^2 + sigma^2 = 1 hides in velocity.
    torch.testing.assert_close(of_target, of_x0, rtol=1e-6, atol=0)


@every_schedule
@pytest.mark.parametrize("source", ["noise", "velocity", "x0"])
@every_target
def test_predictions_convert_into_each_other(betas, source, target):
    schedule = Schedule(betas)
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    torch.manual_seed(0)
    x0, noise = torch.randn(2, T, 3, dtype=torch.float64)
    a, s = alpha[:, None], sigma[:, None]
    x_t = a * x0 + s * noise
    truth = {"noise": noise, "velocity": a * noise - s * x0, "x0": x0}

    got = convert(truth[source], x_t, alpha, sigma, source, target)

    # Recovering x0 from noise divides a rounding of x_t by alpha, noise from x0 by sigma.
    slack = 8 * 2**-53 * (1 + 1 / a.square() + 1 / s.square())
    assert bool(((got - truth[target]).abs() <= slack * (1 + x_t.abs())).all())


def test_prior_kl_is_that_of_two_gaussians():
    schedule = Schedule(BETAS["log_snr"])
    x0 = torch.randn(5, 2, 3, dtype=torch.float64)
    q = Normal(schedule.alpha[-1].double() * x0, schedule.sigma[-1].double())

    expected = kl_divergence(q, Normal(0.0, 1.0)).sum((1, 2))

    torch.testing.assert_close(schedule.prior_kl(x0), expected, rtol=1e-5, atol=0)


def test_tables_keep_their_precision_and_stay_out_of_checkpoints():
    schedule = Schedule(BETAS["cosine"])
    before = {name: table.clone() for name, table in schedule.named_buffers()}

    for cast in (schedule.bfloat16, schedule.half, schedule.double, schedule.float):
        cast()
        for name, table in schedule.named_buffers():
            assert table.dtype is torch.float32
            assert torch.equal(table, before[name])

    assert not schedule.state_dict()
    assert len(schedule) == T
    assert schedule.to("meta").alpha.device.type == "meta"


def test_stratified_times_fill_the_range_evenly():
    for seed in range(20):
        key = torch.tensor(seed)
        t = draw_times(30, 100, "stratified", key, 1)
        # Thirty arcs of a circle, each of 100 / 30 steps: starts differ by 3 or 4.
        gaps = (t.sort().values.diff()).tolist()
        assert set(gaps) <= {3, 4}
        assert int(t.min()) >= 0
        assert int(t.max()) < 100


@pytest.mark.parametrize("how", ["stratified", "uniform"])
def test_each_time_is_uniform_by_itself(how):
    draws = torch.stack([draw_times(4, 10, how, torch.tensor(seed), 1) for seed in range(3000)])

    for position in range(4):
        counts = draws[:, position].bincount(minlength=10).double()
        chi_square = float(((counts - 300) ** 2 / 300).sum())
        # Nine degrees of freedom: above this once in a million seeds.
        assert chi_square < 44


def test_independent_times_are_independent():
    draws = torch.stack([draw_times(2, 10, "uniform", torch.tensor(s), 1) for s in range(3000)])
    correlation = torch.corrcoef(draws.T.double())[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(3000)


def test_bad_input_errors():
    with pytest.raises(ValueError, match=r"betas must be a vector of values in \(0, 1\)"):
        Schedule(torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="variance must be 'small' or 'large'; got 'medium'"):
        Schedule(BETAS["linear"], "medium")
    with pytest.raises(ValueError, match=r"target must be one of .* got 'score'"):
        Schedule(BETAS["linear"], "small", "score")
    with pytest.raises(ValueError, match=r"target must be one of .* got 'score'"):
        convert(torch.ones(1), torch.ones(1), torch.ones(1), torch.ones(1), "noise", "score")
