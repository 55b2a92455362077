"""Gated PixelCNN on scikit-learn's digits, 8 x 8 images of 17 grey levels, given their labels.

    dgm-fast train gated_pixelcnn --data digits

1,297 training images are few: dropout, weight decay and an average of the weights hold off
overfitting.
"""

from __future__ import annotations

from dgm_fast.families import GatedPixelCNNConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=GatedPixelCNNConfig(
            event_shape=(8, 8),
            **pixel_options(binarization, levels=17),
            classes=10,
            channels=16,
            layers=4,
            first_kernel=5,
            head_channels=32,
            dropout=0.3,
        ),
        train=TrainConfig(
            epochs=40,
            batch_size=50,
            learning_rate=3e-3,
            weight_decay=0.05,
            warmup_steps=50,
            ema_decay=0.99,
        ),
    )
