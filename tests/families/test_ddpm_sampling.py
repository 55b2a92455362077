"""Samples follow the model, are reproducible one by one, and obey labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dgm_fast.families import DDPM, DDPMConfig
from dgm_fast.families.diffusion.schedules import gaussian_posterior
from tests.families.diffusion_denoisers import Wobble, gaussian_model, level_model

CONFIG = DDPMConfig((4, 4), levels=5, timesteps=12, schedule="log_snr", classes=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_model(**options):
    return DDPM(replace(CONFIG, **options), network=Wobble()).eval()


def moments_of_the_chain(model, mean, std):
    """Mean and variance of the samples of an exact denoiser of N(mean, std^2), step by step."""
    schedule = model.schedule
    alpha, sigma = schedule.alpha.double(), schedule.sigma.double()
    one, none = alpha.new_ones(()), alpha.new_zeros(())
    m, v = none, one
    for t in range(len(schedule))[::-1]:
        s_alpha, s_sigma = (alpha[t - 1], sigma[t - 1]) if t else (one, none)
        posterior = gaussian_posterior(alpha[t], sigma[t], s_alpha, s_sigma)
        added = sigma[t] ** 2 - (alpha[t] / s_alpha) ** 2 * s_sigma**2
        gain = alpha[t] * std**2 / (alpha[t] ** 2 * std**2 + sigma[t] ** 2)

        # x_s = of_x_t x_t + of_x0 (mean + gain (x_t - alpha mean)) + noise
        slope = posterior.of_x_t + posterior.of_x0 * gain
        m = slope * m + posterior.of_x0 * (1 - gain * alpha[t]) * mean
        chosen = posterior.variance if model.config.variance == "small" else added
        v = slope**2 * v + (schedule.decoder_variance.double() if t == 0 else chosen)

    return m.item(), v.item()


@pytest.mark.parametrize("target", ["noise", "velocity", "x0"])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.3)])
def test_ancestral_sampling_of_an_exact_denoiser(target, variance, mean, std):
    model = gaussian_model(mean, std, target=target, variance=variance, timesteps=60)
    n = 40_000

    x = model.sample(n // 2, generator=generator()).double()

    expected_mean, expected_variance = moments_of_the_chain(model, mean, std)
    spread = math.sqrt(expected_variance)
    assert abs(x.mean().item() - expected_mean) < 5 * spread / math.sqrt(n)
    assert abs(x.var().item() / expected_variance - 1) < 5 * math.sqrt(2 / n)
    # In the limit of many steps the samples are as the data.
    finer = gaussian_model(mean, std, target=target, variance=variance, timesteps=1000)
    limit_mean, limit_variance = moments_of_the_chain(finer, mean, std)
    assert limit_mean == pytest.approx(mean, abs=1e-3)
    assert limit_variance == pytest.approx(std**2, rel=0.02)
    if variance == "large" and std == 1.0:
        assert expected_variance == pytest.approx(1, abs=1e-6)


def test_grey_levels_come_out_in_their_shares():
    p = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    model = level_model(p, timesteps=200)
    n = 30_000

    x = model.sample(n // 3, generator=generator())

    counts = x.flatten().long().bincount(minlength=4)
    assert int(counts.sum()) == n
    # Sampling errors, and a per cent for the steps being finite.
    error = 5 * (p * (1 - p) / n).sqrt() + 0.01
    assert bool(((counts / n - p).abs() < error).all())


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_targets_are_interchangeable(sampler):
    """The same denoiser, predicting noise, velocity or x_0, draws the same samples."""
    found = [
        gaussian_model(0.5, 0.3, target=target).sample(50, generator=generator(), sampler=sampler)
        for target in ("noise", "velocity", "x0")
    ]
    # Float32 roundings, amplified where noise is divided by alpha of the last times.
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 0.7, "steps": 5}, {"steps": 4}],
    ids=["ddpm", "ddim", "ddim with noise", "few steps"],
)
def test_a_sample_is_the_same_in_any_batch(options):
    model, labels = make_model(levels=None, first_log_snr=4.0), torch.arange(7) % 3
    whole = model.sample(7, labels, generator(), **options)

    first = model.sample(3, labels[:3], generator(), **options)
    last = model.sample(4, labels[3:], generator(), sample_offset=3, **options)

    torch.testing.assert_close(torch.cat([first, last]), whole)
    assert torch.equal(model.sample(7, labels, generator(), **options), whole)
    assert not torch.equal(model.sample(7, labels, generator(1), **options), whole)


def test_manual_seed_governs_samples():
    model = make_model()
    torch.manual_seed(3)
    first = model.sample(4)
    torch.manual_seed(3)
    assert torch.equal(model.sample(4), first)
    assert not torch.equal(model.sample(4), first)


def test_ddim_without_noise_is_a_function_of_the_latent():
    model = make_model()
    z = torch.randn(5, 4, 4, generator=generator())

    found = [model.sample(5, sampler="ddim", noise=z, generator=generator(i)) for i in range(2)]

    assert torch.equal(found[0], found[1])
    ancestral = [model.sample(5, noise=z, generator=generator(i)) for i in range(2)]
    assert not torch.equal(ancestral[0], ancestral[1])


def test_ddim_inverts_its_encoder():
    model = gaussian_model(0.5, 0.3, timesteps=500)
    x = 0.5 + 0.3 * torch.randn(200, 2, generator=generator(), dtype=torch.float64)

    z = model.encode(x)
    back = model.sample(200, sampler="ddim", noise=z)
    coarse = model.sample(200, sampler="ddim", noise=model.encode(x, steps=20), steps=20)

    assert float((back - x).abs().max()) < 0.02
    assert float((back - x).abs().max()) < 0.1 * float((coarse - x).abs().max())
    assert z.std().item() == pytest.approx(1, abs=0.15)


def test_neutral_guidance_is_the_conditional_model():
    model, labels = make_model(), torch.arange(6) % 3

    def draw(guidance, context):
        return model.sample(6, context, generator(), sampler="ddim", guidance=guidance)

    assert torch.equal(draw(1.0, labels), model.sample(6, labels, generator(), sampler="ddim"))
    assert not torch.equal(draw(3.0, labels), draw(1.0, labels))
    # With no weight on the labels what remains is the model without them.
    assert torch.equal(draw(0.0, labels), draw(1.0, None))


def test_guidance_moves_samples_on_towards_their_class():
    """The exact denoiser of N(label, 0.3^2), against that of N(0, 0.3^2) without a label."""
    model = gaussian_model(0.0, 0.3, classes=2, timesteps=100)
    labels = torch.ones(4000, dtype=torch.int64)

    means = {
        guidance: model.sample(4000, labels, generator(), guidance=guidance).mean().item()
        for guidance in (0.0, 1.0, 2.0)
    }

    assert means[0.0] == pytest.approx(0, abs=0.05)
    assert means[1.0] == pytest.approx(1, abs=0.05)
    # Twice the difference of two predictions that are both linear moves the mean twice as far.
    assert means[2.0] == pytest.approx(2, abs=0.1)


def test_labels_broadcast_and_shapes():
    model = make_model()

    x = model.sample((2, 3), torch.arange(3), generator())

    rows = model.sample(6, torch.arange(3).repeat(2), generator())
    assert torch.equal(x, rows.view(2, 3, 4, 4))
    assert x.dtype is torch.float32
    assert set(x.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert model.sample(()).shape == (4, 4)
    assert model.sample(0).shape == (0, 4, 4)
    assert model.sample(2, torch.tensor(1)).shape == (2, 4, 4)


def test_steps_visit_both_ends():
    model = make_model()
    seen = []

    class Watch(Wobble):
        def forward(self, x_t, t, label=None):
            seen.append(int(t[0]))
            return super().forward(x_t, t, label)

    model.network = Watch()
    told = []
    model.sample(2, steps=4, progress=lambda done, of: told.append((done, of)))

    assert seen == [11, 7, 4, 0]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    seen.clear()
    model.sample(2, steps=1)
    assert seen == [11]


def test_bad_input_errors():
    model = make_model()
    with pytest.raises(ValueError, match="sampler must be 'ddpm' or 'ddim'; got 'euler'"):
        model.sample(2, sampler="euler")
    with pytest.raises(ValueError, match=r"steps must be in 1 \.\. timesteps = 12; got 13"):
        model.sample(2, steps=13)
    with pytest.raises(ValueError, match=r"guidance must be 1 without labels to follow; got 2\.0"):
        model.sample(2, guidance=2.0)
    with pytest.raises(ValueError, match=r"context must hold values in 0 \.\. 2; got 3 to 3"):
        model.sample(2, torch.tensor(3))
    with pytest.raises(ValueError, match=r"context must have dims that broadcast to shape = \(4,"):
        model.sample((4, 2), torch.arange(3))
    with pytest.raises(ValueError, match=r"noise must have shape .*\(2, 4, 4\); got \(2, 16\)"):
        model.sample(2, noise=torch.zeros(2, 16))
    with pytest.raises(ValueError, match="x must hold integers"):
        model.log_prob(torch.full((2, 4, 4), 0.5))
    with pytest.raises(ValueError, match="eta must be in"):
        model.sample(2, sampler="ddim", eta=2.0)
