"""One training step of MADE 784-2048-2048-784 at batch 100.

`python -m benchmarks.made_training_step`. The column `eager` is the same model on the reference,
`F.linear(x, weight * mask, bias)`; `best_eager` is a plain network whose weights are masked again
after each update.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks.premasked_made import PremaskedMADE
from benchmarks.run import Options
from benchmarks.training_step import Trainer, TrainingStep, measure
from dgm_fast.families import MADE, MADEConfig

FEATURES = 784
HIDDEN = (2048, 2048)
BATCH = 100


class PremaskedTrainer(Trainer):
    """Trains a weight that is masked once an update, instead of once a use."""

    def step(self, x: Tensor) -> Tensor:
        """Train on one batch and mask the weights; return the loss before it."""
        loss = super().step(x)
        self.model.mask_weights()
        return loss


def training_step() -> TrainingStep:
    """Describe the step and its rivals."""

    def batch() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(BATCH, FEATURES, generator=generator)
        return images.bernoulli(generator=generator)

    def model(impl: str, device: torch.device) -> MADE:
        return MADE(MADEConfig(features=FEATURES, hidden=HIDDEN), impl=impl, device=device)

    plain = partial(model, "reference")
    return TrainingStep(
        name="made_training_step",
        case=f"{BATCH}x{FEATURES}-{HIDDEN[0]}-{HIDDEN[1]}",
        batch=batch,
        ours=partial(model, "auto"),
        plain=plain,
        rivals={
            "best_eager": lambda device: PremaskedTrainer(lambda: PremaskedMADE(plain(device)))
        },
    )


if __name__ == "__main__":
    sys.exit(measure(training_step(), tyro.cli(Options), Console()))
