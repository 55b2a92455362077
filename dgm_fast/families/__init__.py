"""Readable model definitions, one file a model."""

from dgm_fast.families.autoregressive import (
    MADE,
    GatedPixelCNN,
    GatedPixelCNNConfig,
    MADEConfig,
    PixelCNN,
    PixelCNNConfig,
    PixelCNNpp,
    PixelCNNppConfig,
    WaveNet,
    WaveNetConfig,
)
from dgm_fast.families.diffusion import DDPM, DDPMConfig
from dgm_fast.families.flows import (
    IAF,
    ICA,
    MAF,
    NICE,
    Glow,
    GlowConfig,
    IAFConfig,
    ICAConfig,
    MAFConfig,
    NeuralSplineFlow,
    NeuralSplineFlowConfig,
    NICEConfig,
    RealNVP,
    RealNVPConfig,
)
from dgm_fast.families.latent import VAE, VAEConfig
from dgm_fast.families.pretrained import Pretrained, family_of

__all__ = [
    "DDPM",
    "FAMILIES",
    "IAF",
    "ICA",
    "MADE",
    "MAF",
    "NICE",
    "VAE",
    "DDPMConfig",
    "GatedPixelCNN",
    "GatedPixelCNNConfig",
    "Glow",
    "GlowConfig",
    "IAFConfig",
    "ICAConfig",
    "MADEConfig",
    "MAFConfig",
    "NICEConfig",
    "NeuralSplineFlow",
    "NeuralSplineFlowConfig",
    "PixelCNN",
    "PixelCNNConfig",
    "PixelCNNpp",
    "PixelCNNppConfig",
    "Pretrained",
    "RealNVP",
    "RealNVPConfig",
    "VAEConfig",
    "WaveNet",
    "WaveNetConfig",
    "family_of",
]

_MODELS: tuple[type[Pretrained], ...] = (
    MADE,
    PixelCNN,
    GatedPixelCNN,
    PixelCNNpp,
    WaveNet,
    ICA,
    NICE,
    RealNVP,
    Glow,
    MAF,
    IAF,
    NeuralSplineFlow,
    VAE,
    DDPM,
)

FAMILIES: dict[str, type[Pretrained]] = {model.family: model for model in _MODELS}
