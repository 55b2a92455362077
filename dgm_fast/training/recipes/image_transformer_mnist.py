"""Transformer over the pixels of MNIST, 784 tokens an image, given their labels.

    dgm-fast train image_transformer --data mnist --data-root PATH/TO/mnist --bf16

Sized for a GPU: an epoch is 39 million pixels.
"""

from __future__ import annotations

from dgm_fast.families import ImageTransformerConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "static") -> Recipe:
    """Make the recipe for one view of MNIST."""
    return Recipe(
        data=DataConfig(data="mnist", binarization=binarization),
        model=ImageTransformerConfig(
            event_shape=(28, 28),
            **pixel_options(binarization, levels=256),
            classes=10,
            layers=6,
            heads=4,
            width=128,
            dropout=0.1,
        ),
        train=TrainConfig(
            epochs=20,
            batch_size=100,
            learning_rate=2e-3,
            weight_decay=0.05,
            betas=(0.9, 0.99),
            warmup_steps=500,
            ema_decay=0.999,
            evaluation_batch_size=100,
        ),
    )
