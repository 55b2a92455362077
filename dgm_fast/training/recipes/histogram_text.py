"""Histogram of the characters of sentences of a small grammar: the least that a model must beat.

dgm-fast train histogram --data text
"""

from __future__ import annotations

from dgm_fast.families import HistogramConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, check_signal_view

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; text has one view alone."""
    check_signal_view(binarization, "text")
    return Recipe(
        data=DataConfig(data="text", binarization="none", segment=128),
        model=HistogramConfig(event_shape=(128,), levels=29, shared=True),
        train=None,
    )
