"""MADE on scikit-learn's digits, 8 x 8 images of 17 grey levels: the demo's recipe.

    dgm-fast train made --data digits

1,297 training images are few: strong dropout, weight decay and an average of the weights hold off
overfitting.
"""

from __future__ import annotations

from dgm_fast.families import MADEConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, likelihood_options

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=MADEConfig(
            features=64,
            hidden=(512, 512),
            direct=True,
            dropout=0.5,
            **likelihood_options(binarization, levels=17),
        ),
        train=TrainConfig(
            epochs=100,
            batch_size=50,
            learning_rate=2e-3,
            weight_decay=0.05,
            warmup_steps=50,
            ema_decay=0.995,
        ),
    )
