"""Samplers of autoregressive and diffusion models; state goes in and comes out explicitly."""

from dgm_fast.sampling.diffusion import ddim_encode, diffusion_sample
from dgm_fast.sampling.naive import naive_sample
from dgm_fast.sampling.pixelcnn import PixelNetwork, PixelSampler, PixelState
from dgm_fast.sampling.wavenet import (
    WaveNetLayer,
    WaveNetNetwork,
    WaveNetSampler,
    WaveNetState,
)

__all__ = [
    "PixelNetwork",
    "PixelSampler",
    "PixelState",
    "WaveNetLayer",
    "WaveNetNetwork",
    "WaveNetSampler",
    "WaveNetState",
    "ddim_encode",
    "diffusion_sample",
    "naive_sample",
]
