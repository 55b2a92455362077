"""Checks of what models are given; they look at values on a CPU, never where that would sync."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_integers", "check_labels"]


def check_integers(name: str, values: Tensor, high: int) -> None:
    """Raise ValueError unless all values lie in 0 .. high, where looking costs little."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or values.numel() == 0:
        return

    low_seen, high_seen = (value.item() for value in values.aminmax())
    if not (low_seen >= 0 and high_seen <= high):
        raise ValueError(f"{name} must hold values in 0 .. {high}; got {low_seen} to {high_seen}")


def check_labels(context: Tensor, classes: int, batch: int) -> None:
    """Raise unless `context` holds a label 0 .. classes - 1 of each sample of a batch."""
    if context.dtype != torch.int64:
        raise TypeError(f"context must be int64 labels; got {context.dtype}")
    if context.shape != (batch,):
        raise ValueError(
            f"context must have shape (B,) = ({batch},), a label a sample; "
            f"got {tuple(context.shape)}"
        )

    check_integers("context", context, classes - 1)
