"""nn.Modules over the ops; each has the state_dict of the torch layer it replaces."""

from dgm_fast.layers.actnorm import ActNorm
from dgm_fast.layers.affine_coupling import AffineCoupling
from dgm_fast.layers.coupling import Coupling
from dgm_fast.layers.invertible_1x1 import Invertible1x1Conv
from dgm_fast.layers.masked_conv2d import MaskedConv2d
from dgm_fast.layers.masked_linear import MaskedLinear
from dgm_fast.layers.rational_quadratic_coupling import RationalQuadraticCoupling, SplineShape

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "Coupling",
    "Invertible1x1Conv",
    "MaskedConv2d",
    "MaskedLinear",
    "RationalQuadraticCoupling",
    "SplineShape",
]
