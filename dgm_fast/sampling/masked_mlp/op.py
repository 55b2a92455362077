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

__all__ = ["choose", "choose_transposed", "go_on", "pack", "solve_transposed"]


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


def _fake_solve(grad: Tensor, *args: object) -> Tensor:
    return grad.new_empty(grad.shape)


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

# Of the system that the gradient of a sweep's x solves: what hidden layers held, their units and
# all else from the last layer to the first.
_transposed = Op(
    "masked_transposed",
    {
        "solve": Direction(
            "(Tensor grad, Tensor slopes, Tensor by_parameters, Tensor[] hidden, Tensor[] units, "
            "Tensor packed, Tensor starts, Tensor order, int[] sizes, int[] skips) -> Tensor w",
            _fake_solve,
        ),
    },
    [cpp(torch.float32)],
)

pack = _packing.kernels["pack", "cpp"]
solve_transposed = _transposed.kernels["solve", "cpp"]
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

    return choice.choose(_sweep, impl, *_device_and_dtype(network), reason_of)


def choose_transposed(impl: str, network: MaskedNetwork) -> str:
    """Return `"reference"` or `"cpp"`, what solves a network's transposed system.

    Arguments:
        impl: what was asked for; of kernels that this does not have nothing is asked.
        network: of ReLU layers, or there is no kernel.
    """
    skips = [skip for skip in network.skips if skip]

    def reason_of(chosen: str) -> str | None:
        if network.activation != "relu":
            return f"it goes back through ReLUs; got {network.activation}"
        return "sums of a layer go to two others" if len(set(skips)) < len(skips) else None

    impl = impl if impl in ("reference", *_transposed.implementations) else "auto"
    return choice.choose(_transposed, impl, *_device_and_dtype(network), reason_of)


def _device_and_dtype(network: MaskedNetwork) -> tuple[torch.device, torch.dtype]:
    weight = network.weights[0]
    return weight.device, torch.promote_types(weight.dtype, torch.float32)
