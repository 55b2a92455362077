"""The torch operator of the sampler of recurrent networks, and which of its kernels one runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, cuda
from dgm_fast._core.op import Direction, Op
from dgm_fast.sampling import choice
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

    def reason_of(chosen: str) -> str | None:
        return unavailable_reason(network) if chosen == "cuda" else None

    weight = network.head_weight
    return choice.choose(_op, impl, weight.device, weight.dtype, reason_of)
