"""WaveNet on synthesised vowels, 8 kHz, 256 mu-law levels: the demo's recipe.

    dgm-fast train wavenet --data vowels

Steps count for more than rows: in first looks, 318 steps of five segments left 4.65 bits a sample
in 9 s of one core, 795 steps of three, with a network of three quarters the width, 4.13 in 12 s.
Linear prediction needs 4.69 of the same segments.
"""

from __future__ import annotations

from dgm_fast.families import WaveNetConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe, check_signal_view

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; signals have one view alone."""
    check_signal_view(binarization)
    return Recipe(
        data=DataConfig(data="vowels", binarization="none", segment=500),
        model=WaveNetConfig(
            output="logistic_mixture",
            components=5,
            input="scalar",
            stacks=1,
            layers=8,
            channels=24,
            gate_channels=24,
            skip_channels=64,
            head_channels=64,
            classes=5,
        ),
        train=TrainConfig(
            epochs=3,
            batch_size=3,
            learning_rate=1e-2,
            warmup_steps=20,
            ema_decay=0.95,
        ),
    )
