"""Sampling of masked networks: one sweep over the degrees of their units."""

from dgm_fast.sampling.masked_mlp.blocks import BLOCK, MaskedBlocks, is_rounding
from dgm_fast.sampling.masked_mlp.layout import MaskedLayout
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.sampler import MaskedSampler
from dgm_fast.sampling.masked_mlp.state import MaskedState
from dgm_fast.sampling.masked_mlp.steps import AffineInverse, Draw, SplineInverse, Step
from dgm_fast.sampling.masked_mlp.transposed import TransposedSweep

__all__ = [
    "BLOCK",
    "AffineInverse",
    "Draw",
    "MaskedBlocks",
    "MaskedLayout",
    "MaskedNetwork",
    "MaskedSampler",
    "MaskedState",
    "SplineInverse",
    "Step",
    "TransposedSweep",
    "is_rounding",
]
