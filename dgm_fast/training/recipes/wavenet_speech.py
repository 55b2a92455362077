"""WaveNet on spoken digits, 8 kHz, 256 mu-law levels, given the digit.

dgm-fast train wavenet --data speech --data-root PATH/TO/recordings
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
        data=DataConfig(data="speech", binarization="none", segment=1000),
        model=WaveNetConfig(
            input="scalar",
            stacks=2,
            layers=8,
            channels=64,
            gate_channels=64,
            skip_channels=128,
            head_channels=128,
            classes=10,
        ),
        train=TrainConfig(
            epochs=15,
            batch_size=2,
            learning_rate=8e-3,
            warmup_steps=100,
            ema_decay=0.998,
        ),
    )
