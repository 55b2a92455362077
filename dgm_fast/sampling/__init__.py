"""Samplers of autoregressive and diffusion models; state goes in and comes out explicitly.

README.md beside this file has what each is given and gives back.
"""

from dgm_fast.sampling.diffusion import ddim_encode, diffusion_sample
from dgm_fast.sampling.filters import filter_logits, pick_token
from dgm_fast.sampling.interrupted import SamplingInterrupted
from dgm_fast.sampling.masked_mlp import (
    AffineInverse,
    Draw,
    MaskedLayout,
    MaskedNetwork,
    MaskedSampler,
    MaskedState,
    SplineInverse,
)
from dgm_fast.sampling.naive import naive_sample
from dgm_fast.sampling.noise import SeededNoise
from dgm_fast.sampling.pixelcnn import PixelNetwork, PixelSampler, PixelState
from dgm_fast.sampling.recurrent import RecurrentNetwork, RecurrentSampler
from dgm_fast.sampling.sequence import SequenceSampler, SequenceState
from dgm_fast.sampling.transformer import (
    TransformerLayer,
    TransformerNetwork,
    TransformerSampler,
)
from dgm_fast.sampling.wavenet import (
    WaveNetLayer,
    WaveNetNetwork,
    WaveNetSampler,
    WaveNetState,
)
from dgm_fast.sampling.window import WindowSampler

__all__ = [
    "AffineInverse",
    "Draw",
    "MaskedLayout",
    "MaskedNetwork",
    "MaskedSampler",
    "MaskedState",
    "PixelNetwork",
    "PixelSampler",
    "PixelState",
    "RecurrentNetwork",
    "RecurrentSampler",
    "SamplingInterrupted",
    "SeededNoise",
    "SequenceSampler",
    "SequenceState",
    "SplineInverse",
    "TransformerLayer",
    "TransformerNetwork",
    "TransformerSampler",
    "WaveNetLayer",
    "WaveNetNetwork",
    "WaveNetSampler",
    "WaveNetState",
    "WindowSampler",
    "ddim_encode",
    "diffusion_sample",
    "filter_logits",
    "naive_sample",
    "pick_token",
]
