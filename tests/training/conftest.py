from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from dgm_fast.training import TrainConfig
from dgm_fast.training.data import make_dataset


class TinyModel(nn.Module):
    """A two-layer strictly causal Bernoulli model of 6 bits, with dropout to draw on the RNG."""

    def __init__(self, features: int = 6, dropout: float = 0.2) -> None:
        super().__init__()
        self.inner = nn.Linear(features, features)
        self.outer = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)
        self.steps_begun: list[int] = []

    def training_step_begin(self, step: int) -> None:
        self.steps_begun.append(step)

    def log_prob(self, x, context=None):
        hidden = self.dropout(torch.tanh(x @ self.inner.weight.tril(-1).T + self.inner.bias))
        logits = hidden @ self.outer.weight.tril().T + self.outer.bias
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    def loss(self, x, context=None):
        return -self.log_prob(x, context).mean()

    def save_pretrained(self, directory: str) -> None:
        save_model(self, str(Path(directory) / "model.safetensors"))
        (Path(directory) / "config.json").write_text(json.dumps({"features": 6}))


@pytest.fixture
def make_model():
    def make(dropout: float = 0.2) -> TinyModel:
        torch.manual_seed(7)
        return TinyModel(dropout=dropout)

    return make


def tiny_dataset():
    """120 / 40 / 40 rows of 2 x 3 images of five grey levels."""
    generator = torch.Generator().manual_seed(3)
    ramp = torch.linspace(0, 4.99, 6).reshape(2, 3)
    noise = torch.rand(200, 2, 3, generator=generator) * 2 - 1
    images = (ramp + noise).clamp(0, 4).round().to(torch.uint8)
    return make_dataset("tiny", (images[:120], images[120:160], images[160:]), 5, "dynamic")


def tiny_config():
    return TrainConfig(
        epochs=3,
        batch_size=20,
        learning_rate=0.02,
        weight_decay=0.01,
        warmup_steps=4,
        gradient_clip=1.0,
        ema_decay=0.8,
        tensorboard=False,
        device="cpu",
    )


@pytest.fixture
def dataset():
    return tiny_dataset()


@pytest.fixture
def config():
    return tiny_config()
