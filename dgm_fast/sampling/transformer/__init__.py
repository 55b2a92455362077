"""Sampling of transformers: each layer keeps its keys and values."""

from dgm_fast.sampling.transformer.network import TransformerLayer, TransformerNetwork
from dgm_fast.sampling.transformer.sampler import TransformerMemory, TransformerSampler

__all__ = ["TransformerLayer", "TransformerMemory", "TransformerNetwork", "TransformerSampler"]
