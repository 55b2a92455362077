"""Glow on the grey levels of scikit-learn's digits, dequantized uniformly.

dgm-fast train glow --data digits
"""

from __future__ import annotations

from dgm_fast.families import GlowConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; its model is of grey levels."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=GlowConfig(
            event_shape=(1, 8, 8),
            levels=17,
            logit_alpha=0.01,
            steps=4,
            hidden=32,
        ),
        train=TrainConfig(
            epochs=20,
            batch_size=100,
            learning_rate=0.005,
            weight_decay=0.01,
            warmup_steps=50,
            ema_decay=0.95,
        ),
    )
