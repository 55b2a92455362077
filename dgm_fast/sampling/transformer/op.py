"""The torch operator of the sampler of transformers, and which of its kernels one runs on."""

from __future__ import annotations

from dgm_fast.sampling import choice
from dgm_fast.sampling.sequence_kernels import sequence_op
from dgm_fast.sampling.transformer.blocks import is_small, unavailable_reason
from dgm_fast.sampling.transformer.network import TransformerNetwork

__all__ = ["choose", "draw"]


# It fills the cache behind `seen`.
_op = sequence_op("transformer_sampler", "cache", "int seen")
draw = {name: _op.kernels["draw", name] for name in _op.implementations}


def choose(impl: str, network: TransformerNetwork) -> str:
    """Return the implementation, `"reference"`, `"cpp"` or `"cuda"`, of a network's sampler."""
    return choice.choose_by_size(
        _op,
        impl,
        network.head,
        lambda: unavailable_reason(network),
        lambda: is_small(network),
    )
