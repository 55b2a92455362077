"""Matrices as the samplers of sequences take them: on a CPU in panels, on a GPU row after row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.gpu_blocks import ROWS
from dgm_fast.sampling.padding import pad_last

__all__ = ["in_panels", "in_rows", "whole_rows"]

PANEL = 64


def whole_rows(size: int) -> int:
    """Return a number of rows filled up to those that a GPU's thread loads at once."""
    return ceil_div(size, ROWS) * ROWS


def in_panels(matrix: Tensor) -> Tensor:
    """Return an input-major matrix (in, out), padded, in panels of 64 columns one after another.

    Example:
        >>> import torch
        >>> from dgm_fast.sampling.panels import in_panels
        >>> flat = in_panels(torch.arange(160).view(2, 80))
        >>> flat[[0, 63, 64, 127, 128, 143, 144]].tolist()
        [0, 63, 80, 143, 64, 79, 144]
    """
    return torch.cat([panel.flatten() for panel in pad_last(matrix).split(PANEL, dim=1)])


def in_rows(matrix: Tensor) -> Tensor:
    """Return an input-major matrix (in, out) with both dims filled up with zeros."""
    missing = whole_rows(len(matrix)) - len(matrix)
    return F.pad(pad_last(matrix), (0, 0, 0, missing)).contiguous()
