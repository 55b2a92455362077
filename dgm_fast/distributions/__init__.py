"""torch.distributions objects made from what a network puts out."""

from dgm_fast.distributions.conditional import (
    BernoulliConditional,
    CategoricalConditional,
    Conditional,
    GaussianConditional,
    GaussianMixtureConditional,
)

__all__ = [
    "BernoulliConditional",
    "CategoricalConditional",
    "Conditional",
    "GaussianConditional",
    "GaussianMixtureConditional",
]
