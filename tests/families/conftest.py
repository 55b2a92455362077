from __future__ import annotations

import itertools

import pytest
import torch

from dgm_fast.families import MADE, MADEConfig


def _make_model(config: MADEConfig, *, seed: int = 0, gain: float = 1.0, **options) -> MADE:
    """A model away from its near-uniform start: weights `gain` times as large, biases random."""
    torch.manual_seed(seed)
    model = MADE(config, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            else:
                parameter.mul_(gain)

    return model


@pytest.fixture
def make_model():
    return _make_model


@pytest.fixture
def all_states():
    """Every vector of `features` digits below `base`, one a row."""

    def states(features: int, base: int = 2, dtype=torch.float64) -> torch.Tensor:
        return torch.tensor(list(itertools.product(range(base), repeat=features)), dtype=dtype)

    return states
