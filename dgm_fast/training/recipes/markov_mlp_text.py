"""Perceptron over the last twelve characters of sentences of a small grammar.

dgm-fast train markov_mlp --data text
"""

from __future__ import annotations

from dgm_fast.families import MarkovMLPConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, check_signal_view

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; text has one view alone."""
    check_signal_view(binarization, "text")
    return Recipe(
        data=DataConfig(data="text", binarization="none", segment=128),
        model=MarkovMLPConfig(
            vocabulary=29,
            order=12,
            embedding=16,
            hidden=128,
        ),
        train=TrainConfig(
            epochs=4,
            batch_size=8,
            learning_rate=5e-3,
            warmup_steps=50,
        ),
    )
