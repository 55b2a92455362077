"""Perceptron over the last ten characters of a megabyte of Shakespeare.

dgm-fast train markov_mlp --data shakespeare --data-root PATH/TO/text
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
        data=DataConfig(data="shakespeare", binarization="none", segment=128),
        model=MarkovMLPConfig(
            vocabulary=65,
            order=10,
            embedding=32,
            hidden=384,
            layers=2,
        ),
        train=TrainConfig(
            epochs=10,
            batch_size=16,
            learning_rate=2e-3,
            weight_decay=0.05,
            warmup_steps=200,
        ),
    )
