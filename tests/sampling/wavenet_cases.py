"""Small WaveNets of all kinds, their samplers, and what these are given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgm_fast.sampling import WaveNetSampler
from tests.families.wavenet_models import VARIANTS, condition_of, example, make_model, small

# Several blocks of times, the last one cut short; longer than any receptive field.
T = 45

CONFIGS = VARIANTS | {
    "kernel 3 of one-hot levels": small(kernel=3, stacks=2, layers=4),
    "mixture of one-hot levels": small(output="logistic_mixture", levels=256, first_kernel=1),
    "whole vectors": small(channels=16, gate_channels=32, skip_channels=48, head_channels=80),
    "wide": small(channels=40, gate_channels=72, skip_channels=272, head_channels=144, levels=256),
    "one layer": small(layers=1),
    "kernel 3 of features": small(kernel=3, features=3, hop=1, classes=2, input="scalar"),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
# So large that two threads draw few signals together.
LARGE = small(
    layers=7, channels=64, gate_channels=64, skip_channels=256, head_channels=256, levels=256,
    features=2, hop=3, classes=3,
)  # fmt: skip


def make_sampler(config, impl="auto", dtype=torch.float32):
    """A sampler, and the model it is of."""
    model = make_model(config).to(dtype)
    sampler = model.sampler()
    return WaveNetSampler(sampler.network, model.output, impl=impl), model


def conditions(config, model, batch, length=T):
    """Labels of the state, features of every sample, and both as the model takes them."""
    inputs = example(config, batch, length, dtype=model.last.weight.dtype)
    label, features = inputs.get("context"), inputs.get("features")
    local = None if features is None else model.upsample(features, length).detach()
    return label, local, condition_of(inputs)


def of(x, times):
    return None if x is None else x[..., times]


# Means and log-scales of the heaviest component, beyond any level and no numbers.
EXTREME = [(1e30, -2.0), (-1e30, -2.0), (float("inf"), -2.0), (float("nan"), -2.0)]
EXTREME += [(0.1, float("nan")), (0.1, -1e30), (0.1, 60.0)]


def extreme_network(network, mean, log_scale):
    """The network with a mixture of this component alone, whatever it sees."""
    bias = torch.full_like(network.last_bias, -2.0)
    bias.view(3, -1)[:, 1] = torch.tensor([60.0, mean, log_scale])
    return replace(network, last_weight=torch.zeros_like(network.last_weight), last_bias=bias)
