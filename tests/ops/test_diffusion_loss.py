"""The mathematics of `diffusion_loss`: the target it makes again, weights, and equal gradients."""

from __future__ import annotations

import pytest
import torch

from dgm_fast import ops
from dgm_fast._core.schedule import TARGETS, cosine_tables
from tests.contract.subjects import each_subject

implementations = each_subject(op="diffusion_loss")
targets = pytest.mark.parametrize("target", TARGETS)


def inputs_on(device, target, **where):
    alpha, sigma = cosine_tables(1000, device)
    generator = torch.Generator().manual_seed(4)
    x0 = torch.randn(5, 3, 7, generator=generator).to(device)
    t = torch.tensor([0, 10, 200, 700, 999], device=device)
    return {"x0": x0, "t": t, "alpha": alpha, "sigma": sigma, "target": target, **where}


@targets
@implementations
def test_the_target_is_the_one_that_noising_made(subject, target):
    inputs = inputs_on(subject.device, target, seed=6, sample_offset=3, stream=1)
    _, made = ops.diffusion_noise(**inputs, impl=subject.implementation.name)

    assert subject.run({"prediction": made, **inputs}).max() < 1e-10
    off = subject.run({"prediction": made + 0.5, **inputs})
    torch.testing.assert_close(off, torch.full_like(off, 0.25), rtol=1e-5, atol=1e-6)


@targets
@implementations
def test_loss_and_gradients_are_those_of_the_stored_target(subject, target):
    inputs = inputs_on(subject.device, target, seed=6)
    inputs["weight"] = torch.linspace(0.5, 2, 1000, device=subject.device)
    generator = torch.Generator().manual_seed(5)
    prediction = torch.randn(5, 3, 7, generator=generator).to(subject.device).requires_grad_()
    loss = subject.run({"prediction": prediction, **inputs})
    (got,) = torch.autograd.grad(loss.sum(), prediction)

    plain = {name: each for name, each in inputs.items() if name != "weight"}
    made = ops.diffusion_noise(**plain, impl=subject.implementation.name)[1].double()
    wide = prediction.detach().double().requires_grad_()
    stored = inputs["weight"][inputs["t"]].double() * (wide - made).square().mean((1, 2))
    (expected,) = torch.autograd.grad(stored.sum(), wide)
    torch.testing.assert_close(loss.double(), stored, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_predicting_nothing_costs_the_variance_of_the_noise():
    alpha, sigma = cosine_tables(1000, torch.device("cpu"))
    x0 = torch.zeros(200, 1000)
    t = torch.zeros(200, dtype=torch.long)

    loss = ops.diffusion_loss(torch.zeros_like(x0), x0, t, alpha, sigma, seed=3)
    # A squared normal has variance 2.
    assert abs(float(loss.mean()) - 1) < 4 * (2 / x0.numel()) ** 0.5


def test_another_seed_is_another_target():
    inputs = inputs_on(torch.device("cpu"), "noise")
    _, eps = ops.diffusion_noise(**inputs, seed=1)

    assert ops.diffusion_loss(eps, **inputs, seed=1).max() == 0
    assert ops.diffusion_loss(eps, **inputs, seed=2).min() > 0.5


def test_a_generator_in_its_earlier_state_gives_the_same_target():
    inputs = inputs_on(torch.device("cpu"), "velocity")
    _, v = ops.diffusion_noise(**inputs, generator=torch.Generator().manual_seed(8))

    loss = ops.diffusion_loss(v, **inputs, generator=torch.Generator().manual_seed(8))
    assert loss.max() < 1e-10


def test_the_x0_target_needs_no_seed():
    inputs = inputs_on(torch.device("cpu"), "x0")
    assert ops.diffusion_loss(inputs["x0"] + 1, **inputs).tolist() == pytest.approx([1.0] * 5)


@implementations
def test_autocast_predictions_meet_float32_images(subject):
    inputs = inputs_on(subject.device, "velocity", seed=6)
    prediction = torch.ones(5, 3, 7, device=subject.device, dtype=torch.bfloat16).requires_grad_()

    loss = subject.run({"prediction": prediction, **inputs})
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert loss.dtype is torch.float32
    assert gradient.dtype is torch.bfloat16
