"""Sampling of PixelCNNs: each layer remembers the rows that it will look back on."""

from dgm_fast.sampling.pixelcnn.network import PixelNetwork, Term, Value, conv_terms
from dgm_fast.sampling.pixelcnn.sampler import PixelSampler
from dgm_fast.sampling.pixelcnn.state import PixelState

__all__ = ["PixelNetwork", "PixelSampler", "PixelState", "Term", "Value", "conv_terms"]
