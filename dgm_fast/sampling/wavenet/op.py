"""The torch operator of WaveNet's sampler, and which of its kernels a network runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, cuda
from dgm_fast._core.op import Direction, Op
from dgm_fast.sampling import choice
from dgm_fast.sampling.wavenet.blocks import is_small, unavailable_reason
from dgm_fast.sampling.wavenet.network import WaveNetNetwork

__all__ = ["choose", "draw"]


def _fake_draw(
    rings: Tensor,
    recent: Tensor,
    weights: list[Tensor],
    sizes: list[int],
    dilations: list[int],
    condition: Tensor,
    features: Tensor | None,
    given: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    of_seed: list[int],
    time: int,
    outputs: int,
    levels: int,
    mixture: bool,
    temperature: float,
    top_k: int,
    top_p: float,
    lowest_log_scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    steps = 0 if seed is None else of_seed[2]
    steps = steps if noise is None else noise.shape[1]
    drawn = recent.new_empty(recent.shape[0], steps)
    return drawn, rings.new_empty(rings.shape[0], steps if keep else 0, outputs)


# It moves the rings and the recent levels on, through the levels given or those it draws: of noise,
# or on a GPU of a seed, whose first sample and place, and how many places, are `of_seed`.
_op = Op(
    "wavenet_sampler",
    {
        "draw": Direction(
            "(Tensor(a!) rings, Tensor(b!) recent, Tensor[] weights, int[] sizes, int[] dilations, "
            "Tensor condition, Tensor? features, Tensor? given, Tensor? noise, Tensor? seed, "
            "int[] of_seed, int time, int outputs, int levels, bool mixture, float temperature, "
            "int top_k, float top_p, float lowest_log_scale, bool keep) "
            "-> (Tensor levels, Tensor parameters)",
            _fake_draw,
        )
    },
    [cpp(torch.float32), cuda(torch.float32)],
)

draw = {name: _op.kernels["draw", name] for name in _op.implementations}


def choose(impl: str, network: WaveNetNetwork) -> str:
    """Return the implementation, `"reference"`, `"cpp"` or `"cuda"`, of a network's sampler."""
    return choice.choose_by_size(
        _op,
        impl,
        network.last_weight,
        lambda: unavailable_reason(network),
        lambda: is_small(network),
    )
