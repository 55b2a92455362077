"""The torch operator of the sampler of recurrent networks, and which of its kernels one runs on."""

from __future__ import annotations

from dgm_fast.sampling import choice
from dgm_fast.sampling.recurrent.blocks import is_small, unavailable_reason
from dgm_fast.sampling.recurrent.network import RecurrentNetwork
from dgm_fast.sampling.sequence_kernels import sequence_op

__all__ = ["choose", "draw"]


# It moves the hidden states on.
_op = sequence_op("recurrent_sampler", "hidden", "bool lstm")
draw = {name: _op.kernels["draw", name] for name in _op.implementations}


def choose(impl: str, network: RecurrentNetwork) -> str:
    """Return the implementation, `"reference"`, `"cpp"` or `"cuda"`, of a network's sampler."""
    return choice.choose_by_size(
        _op,
        impl,
        network.head_weight,
        lambda: unavailable_reason(network),
        lambda: is_small(network),
    )
