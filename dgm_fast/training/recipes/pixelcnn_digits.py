"""PixelCNN on scikit-learn's digits, 8 x 8 images of 17 grey levels: the demo's recipe.

    dgm-fast train pixelcnn --data digits

1,297 training images are few: dropout, weight decay and an average of the weights hold off
overfitting.
"""

from __future__ import annotations

from dgm_fast.families import PixelCNNConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=PixelCNNConfig(
            event_shape=(8, 8),
            **pixel_options(binarization, levels=17),
            channels=32,
            blocks=4,
            first_kernel=5,
            head_channels=32,
            dropout=0.1,
        ),
        train=TrainConfig(
            epochs=30,
            batch_size=50,
            learning_rate=6e-3,
            weight_decay=0.2,
            warmup_steps=50,
            ema_decay=0.99,
        ),
    )
