"""`masked_linear` in plain PyTorch: the oracle, the fallback and the benchmark's baseline."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dgm_fast.ops.masked_linear.structure import MaskStructure


def masked_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: MaskStructure) -> Tensor:
    """Compute `F.linear(x, weight * mask, bias)`."""
    return F.linear(x, weight * mask.dense(weight.dtype), bias)
