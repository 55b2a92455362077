"""Sampling of WaveNet: each layer remembers what it will look back on."""

from dgm_fast.sampling.wavenet.network import WaveNetLayer, WaveNetNetwork
from dgm_fast.sampling.wavenet.sampler import WaveNetSampler
from dgm_fast.sampling.wavenet.state import WaveNetState

__all__ = ["WaveNetLayer", "WaveNetNetwork", "WaveNetSampler", "WaveNetState"]
