"""Small WaveNets of every kind."""

from __future__ import annotations

import torch

from dgm_fast.families import WaveNet, WaveNetConfig

SMALL = {"stacks": 1, "layers": 3, "channels": 6, "gate_channels": 5, "skip_channels": 12}
SMALL |= {"head_channels": 12, "levels": 8, "components": 3}
MIXTURE = {"output": "logistic_mixture", "input": "scalar"}


def small(**changes):
    """The configuration of a small model."""
    return WaveNetConfig(**(SMALL | changes))


# A kind of every output, input and condition.
VARIANTS = {
    "categorical": small(),
    "scalar": small(input="scalar", scale="linear", stacks=2, kernel=3),
    "mixture of 256": small(**MIXTURE, levels=256, classes=3),
    "mixture of 65536": small(**MIXTURE, scale="linear", levels=65536, first_kernel=4),
    "labels": small(classes=3, stacks=2),
    "features": small(features=2, hop=4, upsampling="repeat"),
    "both": small(features=2, hop=3, classes=3),
}


def make_model(config, seed=0, gain=1.5, **options):
    """A model away from its near-uniform start."""
    torch.manual_seed(seed)
    model = WaveNet(config, **options)
    with torch.no_grad():
        model.last.weight.mul_(60 if config.output == "categorical" else 15)
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and not name.startswith("last"):
                parameter.normal_(std=0.3)
            elif name.endswith("weight"):
                parameter.mul_(gain)
    return model


def example(config, batch=6, length=21, seed=1, dtype=torch.float32):
    """Signals and what they are conditioned on, as arguments by name."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {"x": torch.rand(batch, length, generator=generator, dtype=dtype) * 2 - 1}
    if config.classes:
        inputs["context"] = torch.arange(batch) % config.classes
    if config.features:
        frames = -(-length // config.hop)
        inputs["features"] = torch.randn(
            batch, config.features, frames, generator=generator, dtype=dtype
        )
    return inputs


def condition_of(inputs):
    """All of an example but its signals."""
    return {name: value for name, value in inputs.items() if name != "x"}
