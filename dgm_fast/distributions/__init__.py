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
from dgm_fast.distributions.pixels import (
    PIXEL_OUTPUTS,
    BernoulliPixels,
    CategoricalPixels,
    LogisticMixturePixels,
    PixelOutput,
    make_pixel_output,
)

__all__ = [
    "PIXEL_OUTPUTS",
    "BernoulliConditional",
    "BernoulliPixels",
    "CategoricalConditional",
    "CategoricalPixels",
    "Conditional",
    "DiscretizedLogistic",
    "DiscretizedLogisticConditional",
    "GaussianConditional",
    "GaussianMixtureConditional",
    "LogisticMixture",
    "LogisticMixturePixels",
    "PixelOutput",
    "make_pixel_output",
]
