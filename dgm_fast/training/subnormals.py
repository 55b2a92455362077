"""Subnormal numbers, which cost a hundred cycles each and mean nothing in training."""

from __future__ import annotations

import torch

__all__ = ["flush_subnormals"]


def flush_subnormals() -> None:
    """Treat subnormal numbers as zero in this process; call it before any work of torch.

    Threads that torch starts later inherit the setting, those that run already keep theirs.
    """
    # AdamW's moments of a weight that no longer gets a gradient shrink into them and stay there.
    torch.set_flush_denormal(True)
