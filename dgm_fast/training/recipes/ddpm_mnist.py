"""DDPM on MNIST, 28 x 28 images of 256 grey levels.

    dgm-fast train ddpm --data mnist --data-root PATH/TO/mnist

Pixels are folded two by two into channels, so that the U-Net works at 14 x 14 and 7 x 7: a
training step of 128 images takes two thirds of a second of one core, an epoch four minutes. Its
size follows from that, to be done within half an hour, and so does the short average of the
weights: one over a thousand steps would still be half the first ones.

With the default seed it reached 1.693 bits/dim, the bound as two passes estimate it on the first
1,000 images of the test set, after 1,950 steps: 20 minutes of one core of an AMD EPYC.
benchmarks/RESULTS.md has the row and the curve.

The whole bound takes a thousand passes of the network an image: `dgm-fast evaluate RUN --quick`
estimates it from two, `--rows 100` computes it of some.
"""

from __future__ import annotations

from typing import Any

from dgm_fast.families import DDPMConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["levels_of", "recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of MNIST."""
    return Recipe(
        data=DataConfig(data="mnist", binarization=binarization),
        model=DDPMConfig(
            event_shape=(28, 28),
            **levels_of(binarization, levels=256),
            timesteps=1000,
            schedule="log_snr",
            loss="bound",
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            patch=2,
            fourier=2,
        ),
        train=TrainConfig(
            epochs=5,
            batch_size=128,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup_steps=200,
            ema_decay=0.99,
        ),
    )


def levels_of(binarization: str, levels: int) -> dict[str, Any]:
    """Choose what a model takes a view of images with `levels` grey levels for."""
    if binarization == "dequantized":
        # Real values in [0, 1) have half the spread of grey levels scaled to [-1, 1], and a
        # density to be as fine as one of them.
        return {"levels": None, "first_log_snr": 16.0, "variance": "large"}
    return {"levels": levels if binarization == "none" else 2}
