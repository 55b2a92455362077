"""One training step of a VAE 784-500-500-50-500-500-784 on binary images at batch 100.

`python -m benchmarks.vae_training_step`. The column `eager` is the same model with
`mean + exp(log_var / 2) * randn_like(mean)` and the KL written out; the noise of the two sides
differs.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks.plain_vae import PlainVAE
from benchmarks.run import Options
from benchmarks.training_step import TrainingStep, measure
from dgm_fast.families import VAE, VAEConfig

EVENT_SHAPE = (28, 28)
HIDDEN = (500, 500)
LATENT = 50
BATCH = 100


def training_step() -> TrainingStep:
    """Describe the step and its rival."""

    def batch() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(BATCH, *EVENT_SHAPE, generator=generator)
        return images.bernoulli(generator=generator)

    def model(kind: type[VAE], device: torch.device) -> VAE:
        config = VAEConfig(EVENT_SHAPE, latent_features=LATENT, hidden=HIDDEN)
        return kind(config, device=device)

    return TrainingStep(
        name="vae_training_step",
        case=f"{BATCH}x{'x'.join(map(str, EVENT_SHAPE))}-{'-'.join(map(str, HIDDEN))}-{LATENT}",
        batch=batch,
        ours=partial(model, VAE),
        plain=partial(model, PlainVAE),
        same_noise=False,
    )


if __name__ == "__main__":
    sys.exit(measure(training_step(), tyro.cli(Options), Console()))
