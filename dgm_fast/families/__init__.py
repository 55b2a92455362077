"""Readable model definitions, one file a model."""

from dgm_fast.families.autoregressive import MADE, MADEConfig
from dgm_fast.families.diffusion import DDPM, DDPMConfig
from dgm_fast.families.flows import NICE, Glow, GlowConfig, NICEConfig, RealNVP, RealNVPConfig
from dgm_fast.families.latent import VAE, VAEConfig
from dgm_fast.families.pretrained import Pretrained, family_of

__all__ = [
    "DDPM",
    "FAMILIES",
    "MADE",
    "NICE",
    "VAE",
    "DDPMConfig",
    "Glow",
    "GlowConfig",
    "MADEConfig",
    "NICEConfig",
    "Pretrained",
    "RealNVP",
    "RealNVPConfig",
    "VAEConfig",
    "family_of",
]

FAMILIES: dict[str, type[Pretrained]] = {
    model.family: model for model in (MADE, NICE, RealNVP, Glow, VAE, DDPM)
}
