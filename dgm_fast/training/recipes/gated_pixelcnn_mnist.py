"""Gated PixelCNN on binarized MNIST, 28 x 28.

    dgm-fast train gated_pixelcnn --data mnist --data-root PATH/TO/mnist

With `--model.classes 10` it models the images given their labels. This recipe was not run to its
end; its size is PixelCNN's, whose recipe was.
"""

from __future__ import annotations

from dgm_fast.families import GatedPixelCNNConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, pixel_options

__all__ = ["recipe"]


def recipe(binarization: str = "static") -> Recipe:
    """Make the recipe for one view of MNIST."""
    return Recipe(
        data=DataConfig(data="mnist", binarization=binarization),
        model=GatedPixelCNNConfig(
            event_shape=(28, 28),
            **pixel_options(binarization, levels=256),
            channels=32,
            layers=7,
            head_channels=64,
        ),
        train=TrainConfig(
            epochs=11,
            batch_size=16,
            learning_rate=2e-3,
            weight_decay=0.01,
            warmup_steps=500,
            ema_decay=0.999,
            bf16=True,
        ),
    )
