"""Models that factor a density into one conditional a feature."""

from dgm_fast.families.autoregressive.gated_pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from dgm_fast.families.autoregressive.made import MADE, MADEConfig
from dgm_fast.families.autoregressive.pixel_model import PixelConfig, PixelModel
from dgm_fast.families.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from dgm_fast.families.autoregressive.pixelcnn_pp import PixelCNNpp, PixelCNNppConfig
from dgm_fast.families.autoregressive.wavenet import WaveNet, WaveNetConfig

__all__ = [
    "MADE",
    "GatedPixelCNN",
    "GatedPixelCNNConfig",
    "MADEConfig",
    "PixelCNN",
    "PixelCNNConfig",
    "PixelCNNpp",
    "PixelCNNppConfig",
    "PixelConfig",
    "PixelModel",
    "WaveNet",
    "WaveNetConfig",
]
