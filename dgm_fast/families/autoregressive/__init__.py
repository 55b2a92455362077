"""Models that factor a density into one conditional a feature."""

from dgm_fast.families.autoregressive.gated_pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from dgm_fast.families.autoregressive.histogram import Histogram, HistogramConfig
from dgm_fast.families.autoregressive.image_transformer import (
    ImageTransformer,
    ImageTransformerConfig,
)
from dgm_fast.families.autoregressive.made import MADE, MADEConfig
from dgm_fast.families.autoregressive.markov import Markov, MarkovConfig
from dgm_fast.families.autoregressive.markov_mlp import MarkovMLP, MarkovMLPConfig
from dgm_fast.families.autoregressive.pixel_model import PixelConfig, PixelModel
from dgm_fast.families.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from dgm_fast.families.autoregressive.pixelcnn_pp import PixelCNNpp, PixelCNNppConfig
from dgm_fast.families.autoregressive.rnn import RNN, RNNConfig
from dgm_fast.families.autoregressive.token_model import TokenConfig, TokenModel
from dgm_fast.families.autoregressive.transformer import Transformer, TransformerConfig
from dgm_fast.families.autoregressive.wavenet import WaveNet, WaveNetConfig

__all__ = [
    "MADE",
    "RNN",
    "GatedPixelCNN",
    "GatedPixelCNNConfig",
    "Histogram",
    "HistogramConfig",
    "ImageTransformer",
    "ImageTransformerConfig",
    "MADEConfig",
    "Markov",
    "MarkovConfig",
    "MarkovMLP",
    "MarkovMLPConfig",
    "PixelCNN",
    "PixelCNNConfig",
    "PixelCNNpp",
    "PixelCNNppConfig",
    "PixelConfig",
    "PixelModel",
    "RNNConfig",
    "TokenConfig",
    "TokenModel",
    "Transformer",
    "TransformerConfig",
    "WaveNet",
    "WaveNetConfig",
]
