"""Numbers of channels as kernels of samplers hold them."""

from __future__ import annotations

from dgm_fast._core.integers import ceil_div

__all__ = ["PAD", "padded"]

# Whole vectors of any instruction set.
PAD = 16


def padded(size: int) -> int:
    """Return a number of channels filled up to whole vectors."""
    return ceil_div(size, PAD) * PAD
