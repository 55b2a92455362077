"""DDPM on scikit-learn's digits, 8 x 8 images of 17 grey levels: the demo's recipe.

    dgm-fast train ddpm --data digits

Steps even in the log signal-to-noise ratio lose little of the likelihood to there being 500 of
them, and make the paper's unweighted noise loss nearly the bound itself.
"""

from __future__ import annotations

from dgm_fast.families import DDPMConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.ddpm_mnist import levels_of
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=DDPMConfig(
            event_shape=(8, 8),
            **levels_of(binarization, levels=17),
            timesteps=500,
            schedule="log_snr",
            loss="bound",
            channels=32,
            multipliers=(1, 2),
            blocks=1,
            dropout=0.1,
            fourier=2,
        ),
        train=TrainConfig(
            epochs=40,
            batch_size=32,
            learning_rate=2e-3,
            weight_decay=0.01,
            warmup_steps=50,
            ema_decay=0.995,
        ),
    )
