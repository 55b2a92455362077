"""VAE on scikit-learn's digits, 8 x 8 images of 17 grey levels: the demo's recipe.

    dgm-fast train vae --data digits

1,297 training images are few: the best weights come early, weight decay holds overfitting off a
little longer. Dropout lost more nats than it saved, by making the decoder ignore the latent.
"""

from __future__ import annotations

from dgm_fast.families import VAEConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig
from dgm_fast.training.recipes.recipe import Recipe
from dgm_fast.training.recipes.vae_mnist import output_of

__all__ = ["recipe"]


def recipe(binarization: str = "none") -> Recipe:
    """Make the recipe for one view of the digits."""
    return Recipe(
        data=DataConfig(data="digits", binarization=binarization),
        model=VAEConfig(
            event_shape=(8, 8),
            output=output_of(binarization),
            levels=17,
            latent_features=16,
            hidden=(512,),
        ),
        train=TrainConfig(
            epochs=60,
            batch_size=50,
            learning_rate=2e-3,
            weight_decay=0.3,
            warmup_steps=50,
            ema_decay=0.99,
        ),
    )
