"""torch.distributions objects made from what a network puts out."""

from dgm_fast.distributions.conditional import (
    BernoulliConditional,
    CategoricalConditional,
    Conditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
    GaussianMixtureConditional,
)
from dgm_fast.distributions.discretized_logistic import DiscretizedLogistic
from dgm_fast.distributions.logistic_mixture import LogisticMixture

__all__ = [
    "BernoulliConditional",
    "CategoricalConditional",
    "Conditional",
    "DiscretizedLogistic",
    "DiscretizedLogisticConditional",
    "GaussianConditional",
    "GaussianMixtureConditional",
    "LogisticMixture",
]
