"""PixelCNN++ on scikit-learn's digits, 8 x 8 images of 17 grey levels.

    dgm-fast train pixelcnn_pp --data digits

1,297 training images are few: dropout, weight decay and an average of the weights hold off
overfitting.
"""

from __future__ import annotations

from dgm_fast.families import PixelCNNppConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=PixelCNNppConfig(
            event_shape=(8, 8),
            **pixel_options(binarization, 17, grey_output="logistic_mixture"),
            channels=16,
            blocks=1,
            scales=2,
            components=5,
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
