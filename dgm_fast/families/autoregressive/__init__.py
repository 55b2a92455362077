"""Models that factor a density into one conditional a feature."""

from dgm_fast.families.autoregressive.made import MADE, MADEConfig
from dgm_fast.families.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig

__all__ = ["MADE", "MADEConfig", "PixelCNN", "PixelCNNConfig"]
