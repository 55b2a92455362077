from __future__ import annotations

import pytest
import torch

from benchmarks import dispatch_overhead, made_training_step, training_step
from benchmarks.premasked_made import PremaskedMADE
from benchmarks.verify import RedContract
from dgm_fast.families import MADE, MADEConfig


def test_every_registration_is_the_same_op_and_differentiable():
    x = torch.ones(4, 4, requires_grad=True)

    with torch.library._scoped_library(dispatch_overhead.NAMESPACE, "FRAGMENT") as library:
        styles = dispatch_overhead.styles(library)
        assert sum(name.startswith("ours:") for name in styles) == 1

        for name, op in styles.items():
            x.grad = None
            y = op(x)
            y.sum().backward()
            assert y.shape == x.shape, name
            assert x.grad.shape == x.shape, name


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(made_training_step, "FEATURES", 12)
    monkeypatch.setattr(made_training_step, "HIDDEN", (16, 16))
    monkeypatch.setattr(training_step, "COMPILE_MODES", {})


def test_both_sides_train_alike(small):
    step = made_training_step.training_step()
    found = training_step.trainers(step, torch.device("cpu"), ())
    batches = [torch.rand(5, 12).round() for _ in range(3)]
    losses, _ = training_step.first_losses(found, batches)

    assert set(losses) == {"eager", "best_eager", "ours:auto"}
    assert len(losses["eager"]) == 3
    training_step.check_losses(losses)


def test_a_side_that_trains_otherwise_is_not_timed():
    losses = {"eager": [3.0, 2.0, 1.0], "ours:auto": [3.0, 2.0, 1.01]}
    with pytest.raises(RedContract, match="ours:auto trains otherwise"):
        training_step.check_losses(losses)


def test_the_plain_rival_trains_to_the_same_weights():
    torch.manual_seed(0)
    model = MADE(MADEConfig(features=6, hidden=(16, 16)), impl="reference")
    premasked = PremaskedMADE(model)
    x = torch.randint(0, 2, (32, 6)).float()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (model, premasked)]
    for _ in range(5):
        loss = premasked.loss(x)
        torch.testing.assert_close(loss, model.loss(x))
        for optimizer, value in zip(optimizers, (model.loss(x), loss), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        premasked.mask_weights()
