"""The mathematics of `ddpm_step` and `ddim_step`: posteriors, marginals and conventions."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_fast import ops
from dgm_fast._core.schedule import TARGETS, cosine_tables
from tests.contract.subjects import each_subject

F64 = torch.float64
targets = pytest.mark.parametrize("target", TARGETS)


def circle(steps=1000):
    return tuple(table.to(F64) for table in cosine_tables(steps, torch.device("cpu")))


def straight(steps=1000):
    """Rectified flow's schedule, whose alpha^2 + sigma^2 is not 1."""
    sigma = torch.arange(1, steps + 1, dtype=F64) / (steps + 1)
    return 1 - sigma, sigma


schedules = pytest.mark.parametrize("tables", [circle(), straight()], ids=["circle", "straight"])


def draw(seed, shape=(4, 50)):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def predicted(x0, eps, alpha, sigma, target):
    return {"noise": eps, "x0": x0, "velocity": alpha * eps - sigma * x0}[target]


def noised(tables, t, target, seed=0):
    """Return x0, eps, x_t and what a perfect network predicts."""
    alpha, sigma = (table[t] for table in tables)
    x0, eps = draw(seed), draw(seed + 1)
    return x0, eps, alpha * x0 + sigma * eps, predicted(x0, eps, alpha, sigma, target)


def log_normal(x, mean, variance):
    return -0.5 * (x - mean) ** 2 / variance


@schedules
@pytest.mark.parametrize(("t", "s"), [(700, 699), (700, 300), (3, 2), (999, 0)])
def test_ddpm_is_the_product_of_gaussians(tables, t, s):
    alpha, sigma = tables
    x0, _, x_t, eps = noised(tables, t, "noise")
    zero, one = torch.zeros_like(x_t), torch.ones_like(x_t)
    mean = ops.ddpm_step(x_t, eps, t, *tables, s=s, noise=zero)
    std = ops.ddpm_step(x_t, eps, t, *tables, s=s, noise=one) - mean

    # q(x_s | x_t, x0) is proportional to q(x_t | x_s) q(x_s | x0), summed here on a grid.
    ratio = alpha[t] / alpha[s]
    variance = sigma[t] ** 2 - ratio**2 * sigma[s] ** 2
    grid = mean[..., None] + std[..., None] * torch.linspace(-8, 8, 2001, dtype=F64)
    log_p = log_normal(x_t[..., None], ratio * grid, variance)
    log_p = log_p + log_normal(grid, alpha[s] * x0[..., None], sigma[s] ** 2)
    p = torch.softmax(log_p, dim=-1)
    numerical = (p * grid).sum(-1)
    spread = (p * (grid - numerical[..., None]) ** 2).sum(-1).sqrt()

    torch.testing.assert_close(mean, numerical, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(std, spread, rtol=1e-6, atol=1e-9)


@schedules
@targets
def test_every_parametrization_takes_the_same_step(tables, target):
    _, eps, x_t, prediction = noised(tables, 400, target)

    for step, how in ((ops.ddpm_step, {}), (ops.ddim_step, {"eta": 0.3})):
        got = step(x_t, prediction, 400, *tables, target, s=250, seed=1, **how)
        expected = step(x_t, eps, 400, *tables, "noise", s=250, seed=1, **how)
        torch.testing.assert_close(got, expected)


@schedules
@targets
def test_ddim_of_a_perfect_network_stays_on_its_line(tables, target):
    x0, eps, x_t, prediction = noised(tables, 800, target)

    got = ops.ddim_step(x_t, prediction, 800, *tables, target, s=120)
    torch.testing.assert_close(got, tables[0][120] * x0 + tables[1][120] * eps)
    prediction = predicted(x0, eps, tables[0][120], tables[1][120], target)
    back = ops.ddim_step(got, prediction, 120, *tables, target, s=800)
    torch.testing.assert_close(back, x_t)


@schedules
@targets
@pytest.mark.parametrize("clip", [None, 0.8])
def test_ddim_at_eta_one_is_ddpm(tables, target, clip):
    *_, x_t, prediction = noised(tables, 600, target)
    noise = draw(7)

    ddpm = ops.ddpm_step(x_t, prediction, 600, *tables, target, noise=noise, clip_x0=clip)
    ddim = ops.ddim_step(
        x_t,
        prediction,
        600,
        *tables,
        target,
        eta=1.0,
        noise=noise,
        clip_x0=clip,
        recompute_noise=True,
    )
    torch.testing.assert_close(ddim, ddpm)


@schedules
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_keeps_the_marginal(tables, eta):
    # Given x0, the deterministic part and the noise have variances that sum to sigma_s^2.
    x0, eps, x_t, _ = noised(tables, 500, "noise")
    zero, one = torch.zeros_like(x_t), torch.ones_like(x_t)
    mean = ops.ddim_step(x_t, eps, 500, *tables, s=350, eta=eta, noise=zero)
    std = ops.ddim_step(x_t, eps, 500, *tables, s=350, eta=eta, noise=one) - mean

    along = (mean - tables[0][350] * x0) / eps
    variance = along**2 + std**2
    torch.testing.assert_close(variance, (tables[1][350] ** 2).expand_as(variance))


@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_ddpm_is_ho_et_al_in_betas(t):
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar = (1 - beta).cumprod(0)
    x_t, eps, z = draw(1), draw(2), draw(3)
    tables = (bar.sqrt(), (1 - bar).sqrt())
    mean = (x_t - beta[t] / (1 - bar[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
    before = bar[t - 1] if t > 0 else torch.tensor(1.0, dtype=F64)
    small = beta[t] * (1 - before) / (1 - bar[t])

    for name, variance in (("small", small), ("large", beta[t])):
        got = ops.ddpm_step(x_t, eps, t, *tables, variance=name, noise=z)
        expected = mean + (variance.sqrt() * z if t > 0 else 0)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("recompute", [False, True])
def test_ddim_is_song_et_al_as_diffusers_clips(eta, recompute):
    bar = circle()[0] ** 2
    x_t, eps, z = 3 * draw(1), draw(2), draw(3)
    a_t, a_s = bar[700], bar[650]
    tables = (bar.sqrt(), (1 - bar).sqrt())

    x0 = ((x_t - (1 - a_t).sqrt() * eps) / a_t.sqrt()).clamp(-1, 1)
    direction = (x_t - a_t.sqrt() * x0) / (1 - a_t).sqrt() if recompute else eps
    std = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
    expected = a_s.sqrt() * x0 + (1 - a_s - std**2).sqrt() * direction + std * z

    how = {"s": 650, "eta": eta, "clip_x0": 1.0, "recompute_noise": recompute}
    torch.testing.assert_close(ops.ddim_step(x_t, eps, 700, *tables, noise=z, **how), expected)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_is_one_plus_ho_and_salimans_weight(scale):
    x_t, c, u = draw(1), draw(2), draw(3)
    weight = scale - 1
    expected = ops.ddim_step(x_t, (1 + weight) * c - weight * u, 500, *circle())

    got = ops.ddim_step(x_t, c, 500, *circle(), prediction_unconditional=u, guidance=scale)
    torch.testing.assert_close(got, expected)


def test_steps_per_sample_are_steps_one_by_one():
    x_t, eps = draw(1).float(), draw(2).float()
    tables = cosine_tables(1000, torch.device("cpu"))
    t, s = torch.tensor([0, 10, 500, 999]), torch.tensor([-1, 3, 499, -1])

    whole = ops.ddpm_step(x_t, eps, t, *tables, s=s, seed=4)
    for i in range(4):
        row = slice(i, i + 1)
        one = ops.ddpm_step(
            x_t[row], eps[row], int(t[i]), *tables, s=int(s[i]), seed=4, sample_offset=i
        )
        torch.testing.assert_close(whole[row], one)

    shared = ops.ddpm_step(x_t, eps, torch.tensor(500), *tables, seed=4)
    assert torch.equal(shared, ops.ddpm_step(x_t, eps, 500, *tables, seed=4))


@pytest.mark.parametrize("step", [ops.ddpm_step, ops.ddim_step])
def test_the_last_step_gives_x0_without_noise(step):
    x0, _, x_t, prediction = noised(circle(), 0, "velocity")

    first = step(x_t, prediction, 0, *circle(), "velocity", seed=1)
    torch.testing.assert_close(first, x0)
    assert torch.equal(first, step(x_t, prediction, 0, *circle(), "velocity", seed=2))


@pytest.mark.parametrize("clip", [None, 10.0])
@targets
@each_subject(op="diffusion_step")
def test_a_step_from_a_clean_sample_gives_it_back(subject, target, clip):
    tables = (torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.8]))
    x, eps = draw(1).float(), draw(2).float()
    prediction = x if target == "x0" else eps
    inputs = {"x_t": x, "prediction": prediction, "alpha": tables[0], "sigma": tables[1]}
    inputs = {name: each.to(subject.device) for name, each in inputs.items()}

    # Velocity is eps at alpha = 1 and sigma = 0, and sigma = 0 leaves none of it in x0.
    how = {"kind": "ddpm", "t": 0, "target": target, "clip_x0": clip}
    torch.testing.assert_close(subject.run(inputs | how), inputs["x_t"])


def test_adjacent_steps_of_a_fine_schedule_keep_their_variance():
    # In float32 sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 would be a rounding error or two.
    tables = tuple(table.float() for table in circle(100_000))
    zero = torch.zeros(1, 8)
    std = ops.ddpm_step(zero, zero, 50_000, *tables, noise=torch.ones(1, 8))

    (a_s, a_t), (b_s, b_t) = (table[49_999:50_001].double().tolist() for table in tables)
    exact = b_s * math.sqrt((a_s * b_t - a_t * b_s) * (a_s * b_t + a_t * b_s)) / (a_s * b_t)
    assert float(std[0, 0]) == pytest.approx(exact, rel=1e-5)


def test_eta_zero_leaves_the_generator_alone():
    state = torch.get_rng_state()
    ops.ddim_step(draw(1), draw(2), 500, *circle())
    assert torch.equal(torch.get_rng_state(), state)
    ops.ddpm_step(draw(1), draw(2), 500, *circle())
    assert not torch.equal(torch.get_rng_state(), state)
