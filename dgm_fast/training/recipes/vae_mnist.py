"""VAE on dynamically binarized MNIST, 28 x 28.

    dgm-fast train vae --data mnist --data-root PATH/TO/mnist
    dgm-fast evaluate runs/vae-mnist --samples 500

With the default seed it reached 87.92 nats on the test set with 500 importance samples, in 6.5
minutes of one core of an AMD EPYC; benchmarks/RESULTS.md has the row and the curve.

The literature on the test set, importance-weighted, in nats: 86.8 to 89.8 for a VAE with one layer
of latent variables and one sample (Burda, Grosse and Salakhutdinov, Importance Weighted
Autoencoders, 2016: 86.76 with 50 latent variables and two layers of 200 units).
"""

from __future__ import annotations

from typing import Literal

from dgm_fast.families import VAEConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["output_of", "recipe"]


def recipe(binarization: str = "dynamic") -> Recipe:
    """Make the recipe for one view of MNIST."""
    return Recipe(
        data=DataConfig(data="mnist", binarization=binarization),
        model=VAEConfig(
            event_shape=(28, 28),
            output=output_of(binarization),
            levels=256,
            latent_features=50,
            hidden=(500, 500),
            activation="elu",
        ),
        train=TrainConfig(
            epochs=60,
            batch_size=100,
            learning_rate=1e-3,
            warmup_steps=500,
            ema_decay=0.999,
        ),
    )


def output_of(binarization: str) -> Literal["bernoulli", "gaussian", "logistic"]:
    """Choose the decoder that fits a view of images."""
    if binarization in ("static", "dynamic"):
        return "bernoulli"
    return "gaussian" if binarization == "dequantized" else "logistic"
