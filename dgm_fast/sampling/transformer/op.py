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

    def reason_of(chosen: str) -> str | None:
        return unavailable_reason(network) if chosen == "cuda" else None

    def is_faster(chosen: str) -> bool:
        return chosen != "cuda" or is_small(network)

    weight = network.head
    return choice.choose(_op, impl, weight.device, weight.dtype, reason_of, is_faster)
