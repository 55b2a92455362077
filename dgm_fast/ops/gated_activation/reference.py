"""`gated_activation` in plain PyTorch: the oracle, the fallback and the benchmark's baseline."""

from __future__ import annotations

from torch import Tensor


def gated_activation(x: Tensor) -> Tensor:
    """Compute tanh of the first half of dim 1, times the sigmoid of the second."""
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()
