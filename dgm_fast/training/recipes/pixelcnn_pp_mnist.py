"""PixelCNN++ on MNIST, 28 x 28 images of 256 grey levels.

    dgm-fast train pixelcnn_pp --data mnist --data-root PATH/TO/mnist

This recipe was not run to its end; its size is what a few cores train in hours, not the paper's.
"""

from __future__ import annotations

from dgm_fast.families import PixelCNNppConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of MNIST."""
    return Recipe(
        data=DataConfig(data="mnist", binarization=binarization),
        model=PixelCNNppConfig(
            event_shape=(28, 28),
            **pixel_options(binarization, 256, grey_output="logistic_mixture"),
            channels=32,
            blocks=1,
            scales=3,
            components=10,
            dropout=0.1,
        ),
        train=TrainConfig(
            epochs=11,
            batch_size=16,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup_steps=500,
            ema_decay=0.999,
            bf16=True,
        ),
    )
