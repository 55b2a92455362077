"""The torch operator of the sampler of images."""

from __future__ import annotations

import torch

from dgm_fast._core.implementation import cpp, requested
from dgm_fast._core.op import Direction, Op

__all__ = ["choose", "draw"]


def _fake_draw(*arguments: object) -> None:
    return None


# It moves the images, what is kept of their rows, and the number of rows done on.
_op = Op(
    "pixel_sampler",
    {
        "draw": Direction(
            "(Tensor(a!) images, Tensor(b!) rows, Tensor(c!) done, Tensor(d!)? parameters, "
            "Tensor given, Tensor noise, Tensor condition, Tensor weights, Tensor places, "
            "Tensor works, Tensor taps, int last, str output, int outputs, int at_once, "
            "int levels, bool ones, float temperature, float lowest_log_scale, "
            "int multiply_adds) -> ()",
            _fake_draw,
        )
    },
    [cpp(torch.float32)],
)

draw = _op.kernels["draw", "cpp"]


def choose(impl: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the implementation, `"reference"` or `"cpp"`, of a sampler."""
    known = ("auto", "reference", *_op.implementations)
    # A block or a process that asks its ops for Triton asks nothing of a sampler.
    if impl == "auto" and requested(impl) not in known:
        return "reference"
    return _op.choose(impl, device, dtype)
