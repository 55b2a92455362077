"""NICE on the grey levels of scikit-learn's digits, dequantized uniformly.

    dgm-fast train nice --data digits

1,297 training images are few, and a larger network learns them by heart.
"""

from __future__ import annotations

from dgm_fast.families import NICEConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; its model is of grey levels."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=NICEConfig(
            event_shape=(1, 8, 8),
            levels=17,
            logit_alpha=0.005,
            hidden=(128, 128),
        ),
        train=TrainConfig(
            epochs=30,
            batch_size=100,
            learning_rate=0.01,
            weight_decay=0.01,
            warmup_steps=50,
            ema_decay=0.95,
        ),
    )
