"""NICE on the grey levels of MNIST, with variational dequantization.

    dgm-fast train nice --data mnist --data-root PATH/TO/mnist

With the default seed it reached 1.417 bits/dim on the test set, a bound with one draw of the noise,
after 16,000 steps: 29 minutes of one core of an AMD EPYC. benchmarks/RESULTS.md has the row and the
curve. Four couplings of networks 392-512-512-512-512-392 are 4.8 million multiply-adds a sample
forward, the learned noise 3.1 more, and a step costs three times that.

A first look, in bits/dim on 1,000 validation images: these sizes had 1.63 after 750 steps and 54
seconds of one core, the paper's five layers of 1,000 units 1.88 after 300 steps and 56 seconds.
After 100 steps of the latter learned noise had 2.11, uniform noise 2.73.

The paper has a log-likelihood of 1980.50 nats of values in [0, 1], which is 4.36 bits/dim, without
the logit (Dinh, Krueger and Bengio, NICE, 2014, table 3).
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
        data=DataConfig(data="mnist", binarization=binarization),
        model=NICEConfig(
            event_shape=(1, 28, 28),
            levels=256,
            logit_alpha=1e-06,
            dequantization="variational",
            hidden=(512, 512, 512, 512),
        ),
        train=TrainConfig(
            epochs=32,
            batch_size=100,
            learning_rate=0.002,
            warmup_steps=500,
            gradient_clip=1000.0,
            ema_decay=0.999,
        ),
    )
