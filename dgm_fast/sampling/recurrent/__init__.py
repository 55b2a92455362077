"""Sampling of recurrent networks: each layer keeps its hidden state."""

from dgm_fast.sampling.recurrent.network import RecurrentNetwork
from dgm_fast.sampling.recurrent.sampler import RecurrentMemory, RecurrentSampler

__all__ = ["RecurrentMemory", "RecurrentNetwork", "RecurrentSampler"]
