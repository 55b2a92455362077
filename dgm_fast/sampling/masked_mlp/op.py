"""The torch operators of the sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, requested
from dgm_fast._core.op import Direction, Op

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


# The sweep fills x, and with `keep` what hidden units hold, in place.
_op = Op(
    "masked_sweep",
    {
        "pack": Direction(
            "(Tensor[] weights, Tensor[] rows, Tensor[] columns, Tensor starts, int[] sizes) "
            "-> Tensor packed",
            _fake_pack,
        ),
        "go_on": Direction(
            "(Tensor(a!) x, Tensor(b!) levels, Tensor(c!) log_det, Tensor? context, Tensor packed, "
            "Tensor biases, Tensor starts, Tensor order, Tensor noise, Tensor? given, int[] sizes, "
            "int[] skips, int activation, int[] kind, Tensor constants, int begin, int end, "
            "bool keep) -> ()",
            _fake_go_on,
        ),
    },
    [cpp(torch.float32)],
)

pack = _op.kernels["pack", "cpp"]
go_on = _op.kernels["go_on", "cpp"]


def choose(impl: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the implementation, `"reference"` or `"cpp"`, of a sampler."""
    known = ("auto", "reference", *_op.implementations)
    # A block or a process that asks its ops for Triton asks nothing of a sampler.
    if impl == "auto" and requested(impl) not in known:
        return "reference"
    return _op.choose(impl, device, dtype)
