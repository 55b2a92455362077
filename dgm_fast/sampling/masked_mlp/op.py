"""The torch operators of the sweep, and which of its kernels a network runs on."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, cuda
from dgm_fast._core.op import Direction, Op
from dgm_fast.sampling import choice
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.steps import Step
from dgm_fast.sampling.masked_mlp.stretches import unavailable_reason

__all__ = ["choose", "go_on", "pack"]


def _fake_pack(
    weights: list[Tensor],
    rows: list[Tensor],
    columns: list[Tensor],
    starts: Tensor,
    sizes: list[int],
) -> Tensor:
    # How many weights are live is in the table, which a fake tensor does not have.
    floats = torch.library.get_ctx().new_dynamic_size()
    return weights[0].new_empty(1, floats)


def _fake_go_on(*args: object) -> None:
    return None


# The sweep fills x, and with `keep` what hidden units hold, in place: of noise, or on a GPU of a
# seed, whose first sample and place, and how many places, are `of_seed`.
_sweep = Op(
    "masked_sweep",
    {
        "go_on": Direction(
            "(Tensor(a!) x, Tensor(b!) levels, Tensor(c!) log_det, Tensor? context, "
            "Tensor[] weights, Tensor biases, Tensor starts, Tensor order, Tensor? noise, "
            "Tensor? seed, int[] of_seed, Tensor? given, int[] sizes, int[] skips, int activation, "
            "int[] kind, Tensor constants, int begin, int end, bool keep) -> ()",
            _fake_go_on,
        ),
    },
    [cpp(torch.float32), cuda(torch.float32)],
)

# Of the sweep on a CPU; a GPU's are laid out by torch.
_packing = Op(
    "masked_packing",
    {
        "pack": Direction(
            "(Tensor[] weights, Tensor[] rows, Tensor[] columns, Tensor starts, int[] sizes) "
            "-> Tensor packed",
            _fake_pack,
        ),
    },
    [cpp(torch.float32)],
)

pack = _packing.kernels["pack", "cpp"]
go_on = {name: _sweep.kernels["go_on", name] for name in _sweep.implementations}


def choose(impl: str, network: MaskedNetwork, step: Step, block: int | None = None) -> str:
    """Return the implementation, `"reference"`, `"cpp"` or `"cuda"`, of a network's sampler.

    Arguments:
        impl: what was asked for.
        network: that is sampled.
        step: what makes a feature.
        block: features of a block; default what is best.
    """

    def reason_of(chosen: str) -> str | None:
        if step.kernel is None:
            return f"it has no kernel of step {type(step).__name__}"
        return unavailable_reason(network, step.kernel, block) if chosen == "cuda" else None

    weight = network.weights[0]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return choice.choose(_sweep, impl, weight.device, dtype, reason_of)
