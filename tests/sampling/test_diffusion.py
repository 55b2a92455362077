from __future__ import annotations

import itertools

import pytest
import torch

from dgm_fast import ops
from dgm_fast.families.diffusion.schedules import Schedule, cosine_betas
from dgm_fast.sampling import ddim_encode, diffusion_sample

T = 12
SCHEDULE = Schedule(cosine_betas(T))
TABLES = SCHEDULE.alpha, SCHEDULE.sigma


def predict(x, t):
    return torch.sin(x + t.view(-1, 1) / 5)


def start(count=6):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
def test_every_step_is_the_ops(eta):
    times = [11, 7, 4, 0]
    x = start()

    got = diffusion_sample(predict, x, times, *TABLES, eta=eta, clip_x0=1.0, seed=3)

    expected = x
    for t, s in ((11, 7), (7, 4), (4, 0), (0, -1)):
        prediction = predict(expected, torch.full((6,), t))
        options = {"s": s, "clip_x0": 1.0, "seed": 3, "stream": s + 1}
        if eta is None:
            expected = ops.ddpm_step(expected, prediction, t, *TABLES, **options)
        else:
            options |= {"eta": eta, "recompute_noise": True}
            expected = ops.ddim_step(expected, prediction, t, *TABLES, **options)

    assert torch.equal(got, expected)
    assert torch.equal(x, start())


def test_eta_one_is_ancestral_sampling_with_the_small_variance():
    ancestral = diffusion_sample(predict, start(), range(T)[::-1], *TABLES, seed=1)
    ddim = diffusion_sample(predict, start(), range(T)[::-1], *TABLES, eta=1.0, seed=1)
    torch.testing.assert_close(ddim, ancestral)


def test_samples_do_not_depend_on_their_batch():
    options = {"seed": 5, "variance": "large"}
    whole = diffusion_sample(predict, start(), range(T)[::-1], *TABLES, **options)

    for part in (slice(0, 2), slice(2, 6), slice(5, 6)):
        got = diffusion_sample(
            predict, start()[part], range(T)[::-1], *TABLES, sample_offset=part.start, **options
        )
        torch.testing.assert_close(got, whole[part])


def test_steps_have_noise_of_their_own():
    """Without a network's help every step adds its noise, which must not be the same one."""
    noise = []

    def record(x, t):
        noise.append(x)
        return torch.zeros_like(x)

    diffusion_sample(record, torch.zeros(500, 8), range(T)[::-1], *TABLES, seed=2)
    # Standardised increments: x_s minus what x_t alone makes of it.
    alpha = SCHEDULE.alpha
    fresh = [
        b / alpha[T - 2 - i] - a / alpha[T - 1 - i]
        for i, (a, b) in enumerate(itertools.pairwise(noise))
    ]
    correlation = torch.corrcoef(torch.stack([each.flatten() for each in fresh]))
    assert float((correlation - torch.eye(T - 1)).abs().max()) < 5 / 4000**0.5


def test_guidance_blends_two_predictions():
    def other(x, t):
        return x / 3

    def blended(x, t):
        return other(x, t) + 2.5 * (predict(x, t) - other(x, t))

    times = range(T)[::-1]
    options = {"eta": 0.0, "predict_unconditional": other}
    got = diffusion_sample(predict, start(), times, *TABLES, guidance=2.5, **options)
    neutral = diffusion_sample(predict, start(), times, *TABLES, guidance=1.0, **options)

    torch.testing.assert_close(got, diffusion_sample(blended, start(), times, *TABLES, eta=0.0))
    torch.testing.assert_close(neutral, diffusion_sample(predict, start(), times, *TABLES, eta=0.0))


def test_progress_is_told_every_step():
    told = []
    diffusion_sample(
        predict, start(), [11, 5, 0], *TABLES, progress=lambda done, all_: told.append((done, all_))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_encoding_inverts_in_the_limit_of_many_steps():
    errors = []
    for steps in (25, 100, 400):
        schedule = Schedule(cosine_betas(steps), target="x0")
        tables = schedule.alpha, schedule.sigma, "x0"
        alpha, sigma = schedule.alpha.double(), schedule.sigma.double()

        def exact(x, t, alpha=alpha, sigma=sigma):
            """E[x_0 | x_t] of data N(0.5, 0.3^2)."""
            a, s = alpha[t][:, None], sigma[t][:, None]
            return 0.5 + a * 0.09 / (a**2 * 0.09 + s**2) * (x - a * 0.5)

        x = 0.5 + 0.3 * start(200).double()
        z = ddim_encode(exact, x, range(steps), *tables)
        back = diffusion_sample(exact, z, range(steps)[::-1], *tables, eta=0.0)
        errors.append(float((back - x).abs().max()))

    # Euler's method: the error falls like one over the number of steps.
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.03
    # The code is standard normal, as the model is exact.
    assert abs(z.mean().item()) < 0.1
    assert z.std().item() == pytest.approx(1, abs=0.1)
