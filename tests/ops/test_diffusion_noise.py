"""The mathematics of `diffusion_noise`: moments, targets, small noise, and who governs the draw."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from dgm_fast import ops
from dgm_fast._core.schedule import cosine_tables
from tests.contract.subjects import each_subject

implementations = each_subject(op="diffusion_noise")
CPU = torch.device("cpu")


def schedule(device=CPU):
    return dict(zip(("alpha", "sigma"), cosine_tables(1000, device), strict=True))


def test_x_t_has_the_moments_of_its_definition():
    x0 = torch.full((400, 1000), 2.0)
    t = torch.full((400,), 300)
    tables = schedule()

    x_t, _ = ops.diffusion_noise(x0, t, **tables, seed=1)
    alpha, sigma = (float(table[300]) for table in tables.values())
    z = (x_t.double() - 2 * alpha) / sigma
    assert abs(float(z.mean())) < 4 / math.sqrt(z.numel())
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / z.numel())


@implementations
def test_targets_are_one_another_rotated(subject):
    x0, t = torch.randn(5, 30, device=subject.device), torch.arange(0, 1000, 200)
    inputs = {"x0": x0, "t": t.to(subject.device), **schedule(subject.device), "seed": 3}

    x_t, eps = subject.run(inputs | {"target": "noise"})
    same, v = subject.run(inputs | {"target": "velocity"})
    assert torch.equal(x_t, same)

    alpha, sigma = (schedule(subject.device)[name][t][:, None] for name in ("alpha", "sigma"))
    torch.testing.assert_close(v, alpha * eps - sigma * x0, rtol=1e-5, atol=1e-5)
    # On a circle the velocity and x_t are a rotation of the noise and x0.
    torch.testing.assert_close(alpha * x_t - sigma * v, x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps, rtol=1e-5, atol=1e-5)


@implementations
def test_the_noise_is_that_of_philox_normal(subject):
    x0 = torch.zeros(3, 2, 5, device=subject.device)
    where = {"seed": 9, "sample_offset": 4, "stream": 2}
    inputs = {"x0": x0, "t": torch.zeros(3, dtype=torch.long), **schedule(subject.device)}

    _, eps = subject.run(inputs | where | {"t": inputs["t"].to(subject.device)})
    drawn = ops.philox_normal(
        (3, 10), **where, device=subject.device, impl=subject.implementation.name
    )
    assert torch.equal(eps.flatten(1), drawn)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@implementations
def test_the_first_steps_noise_survives_in_16_bits(subject, dtype):
    # Rounded to 16 bits alpha would be 1, and sqrt(1 - alpha^2) no noise at all.
    x0 = torch.zeros(4, 500, dtype=dtype, device=subject.device)
    inputs = {"x0": x0, "t": torch.zeros(4, dtype=torch.long, device=subject.device), "seed": 2}

    x_t, _ = subject.run(inputs | schedule(subject.device))
    assert float(schedule()["alpha"][0].to(dtype)) == 1
    assert float(x_t.double().std()) == pytest.approx(float(schedule()["sigma"][0]), rel=0.1)


@implementations
def test_bytes_meet_both_ends_exactly(subject):
    x0 = torch.arange(256, dtype=torch.uint8, device=subject.device)[None]
    inputs = {"x0": x0, "t": torch.zeros(1, dtype=torch.long, device=subject.device), "seed": 2}

    _, value = subject.run(inputs | schedule(subject.device) | {"target": "x0"})
    assert float(value[0, 0]) == -1
    assert float(value[0, 255]) == 1
    torch.testing.assert_close(value.cpu()[0], torch.arange(256) / 127.5 - 1, rtol=1e-6, atol=1e-6)


def test_a_target_is_returned_without_a_copy_where_it_was_given():
    x0, noise, t = torch.ones(2, 3), torch.ones(2, 3), torch.tensor([1, 2])

    assert ops.diffusion_noise(x0, t, **schedule(), target="x0", seed=0)[1] is x0
    _, target = ops.diffusion_noise(x0, t, **schedule(), noise=noise)
    assert target.data_ptr() == noise.data_ptr()
    x_t, target = ops.diffusion_noise(x0, t, **schedule(), target=None, seed=0)
    assert target is None
    assert torch.equal(x_t, ops.diffusion_noise(x0, t, **schedule(), seed=0)[0])


def test_a_batch_in_parts_is_the_batch_whole():
    x0, t = torch.randn(7, 40), torch.arange(7) * 100
    whole, _ = ops.diffusion_noise(x0, t, **schedule(), seed=5)

    parts = [
        ops.diffusion_noise(x0[i:j], t[i:j], **schedule(), seed=5, sample_offset=i)[0]
        for i, j in ((0, 3), (3, 7))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_noise_is_a_constant():
    x0 = torch.ones(2, 3, requires_grad=True)
    x_t, eps = ops.diffusion_noise(x0, torch.tensor([1, 2]), **schedule(), seed=0)

    assert x_t.requires_grad
    assert not eps.requires_grad


@implementations
def test_a_step_outside_is_nan_where_nobody_looks(subject, monkeypatch):
    api = importlib.import_module("dgm_fast.ops.diffusion_noise.api")
    monkeypatch.setattr(api, "check_steps", lambda *rest: None)
    t = torch.tensor([-1, 5, 1000], device=subject.device)
    inputs = {"x0": torch.ones(3, 8, device=subject.device), "t": t, "seed": 0}

    x_t, _ = subject.run(inputs | schedule(subject.device))
    assert x_t.isnan().all(dim=1).tolist() == [True, False, True]
