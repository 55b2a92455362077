"""Transformer over the pixels of scikit-learn's digits, 8 x 8 of 17 levels, given their labels.

    dgm-fast train image_transformer --data digits

1,297 training images are few: dropout, weight decay and an average of the weights hold off
overfitting.
"""

from __future__ import annotations

from dgm_fast.families import ImageTransformerConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=ImageTransformerConfig(
            event_shape=(8, 8),
            **pixel_options(binarization, levels=17),
            classes=10,
            layers=2,
            heads=4,
            width=48,
            dropout=0.1,
        ),
        train=TrainConfig(
            epochs=20,
            batch_size=25,
            learning_rate=5e-3,
            weight_decay=0.2,
            betas=(0.9, 0.99),
            warmup_steps=50,
            ema_decay=0.99,
        ),
    )
