"""The torch operator of the sampler of recurrent networks, and which of its kernels one runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import ImplementationUnavailable, cpp, cuda, requested
from dgm_fast._core.op import Direction, Op
from dgm_fast.sampling.recurrent.blocks import unavailable_reason
from dgm_fast.sampling.recurrent.network import RecurrentNetwork

__all__ = ["choose", "draw"]


def _fake_draw(
    hidden: list[Tensor],
    parameters: Tensor | None,
    inputs: Tensor,
    given: Tensor | None,
    noise: Tensor | None,
    *others: object,
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], 0 if noise is None else noise.shape[1])


# It moves the hidden states on, and fills in parameters where they are wanted.
_op = Op(
    "recurrent_sampler",
    {
        "draw": Direction(
            "(Tensor(a!)[] hidden, Tensor(b!)? parameters, Tensor inputs, Tensor? given, "
            "Tensor? noise, Tensor[] weights, int[] sizes, bool lstm, float temperature, "
            "int top_k, float top_p) -> Tensor tokens",
            _fake_draw,
        )
    },
    [cpp(torch.float32), cuda(torch.float32)],
)

draw = {name: _op.kernels["draw", name] for name in _op.implementations}


def choose(impl: str, network: RecurrentNetwork) -> str:
    """Return the implementation, `"reference"`, `"cpp"` or `"cuda"`, of a network's sampler."""
    known = ("auto", "reference", *_op.implementations)
    # A block or a process that asks its ops for Triton asks nothing of a sampler.
    if impl == "auto" and requested(impl) not in known:
        return "reference"

    weight = network.head_weight
    chosen = _op.choose(impl, weight.device, weight.dtype)
    reason = unavailable_reason(network) if chosen == "cuda" else None
    if reason is None:
        return chosen
    if requested(impl) == "cuda":
        raise ImplementationUnavailable(f"recurrent_sampler: impl='cuda' cannot run: {reason}")
    return "reference"
