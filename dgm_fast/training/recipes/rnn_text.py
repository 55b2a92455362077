"""GRU on sentences of a small grammar.

dgm-fast train rnn --data text
"""

from __future__ import annotations

from dgm_fast.families import RNNConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, check_signal_view

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; text has one view alone."""
    check_signal_view(binarization, "text")
    return Recipe(
        data=DataConfig(data="text", binarization="none", segment=128),
        model=RNNConfig(
            vocabulary=29,
            width=96,
            embedding=32,
        ),
        train=TrainConfig(
            epochs=5,
            batch_size=8,
            learning_rate=1e-2,
            betas=(0.9, 0.99),
            warmup_steps=50,
        ),
    )
