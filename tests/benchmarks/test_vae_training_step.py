from __future__ import annotations

import pytest
import torch

from benchmarks import training_step, vae_training_step
from benchmarks.plain_vae import PlainVAE
from benchmarks.verify import RedContract
from dgm_fast.families import VAE, VAEConfig


@pytest.fixture
def step(monkeypatch):
    monkeypatch.setattr(vae_training_step, "EVENT_SHAPE", (3, 4))
    monkeypatch.setattr(vae_training_step, "HIDDEN", (16,))
    monkeypatch.setattr(training_step, "COMPILE_MODES", {})
    return vae_training_step.training_step()


def test_both_sides_train_alike(step):
    found = training_step.trainers(step, torch.device("cpu"), ())
    batches = [step.batch() for _ in range(3)]
    losses, _ = training_step.first_losses(found, batches)

    assert set(losses) == {"eager", "ours:auto"}
    assert batches[0].shape == (vae_training_step.BATCH, 3, 4)
    training_step.check_losses(losses, tolerance=0.1)
    with pytest.raises(RedContract):
        training_step.check_losses(losses)


def test_the_plain_rival_is_the_same_model():
    torch.manual_seed(0)
    config = VAEConfig((3, 4), latent_features=4, hidden=(16,))
    model, plain = VAE(config), PlainVAE(config)
    plain.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 4).round().expand(20_000, -1, -1)

    with torch.no_grad():
        expected, difference = model.validation_nats(x), plain.loss(x) - model.loss(x)

    # The noise differs: five standard errors of the difference of two means.
    assert abs(float(difference)) < 5 * float(expected.std()) * (2 / len(x)) ** 0.5
