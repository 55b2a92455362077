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
from dgm_fast.distributions.quantizer import SCALES, Quantizer
from dgm_fast.distributions.waveform import (
    WAVEFORM_OUTPUTS,
    CategoricalWaveform,
    LogisticMixtureWaveform,
    WaveformOutput,
    make_waveform_output,
)

__all__ = [
    "PIXEL_OUTPUTS",
    "SCALES",
    "WAVEFORM_OUTPUTS",
    "BernoulliConditional",
    "BernoulliPixels",
    "CategoricalConditional",
    "CategoricalPixels",
    "CategoricalWaveform",
    "Conditional",
    "DiscretizedLogistic",
    "DiscretizedLogisticConditional",
    "GaussianConditional",
    "GaussianMixtureConditional",
    "LogisticMixture",
    "LogisticMixturePixels",
    "LogisticMixtureWaveform",
    "PixelOutput",
    "Quantizer",
    "WaveformOutput",
    "make_pixel_output",
    "make_waveform_output",
]
