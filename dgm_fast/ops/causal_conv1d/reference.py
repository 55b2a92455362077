"""`causal_conv1d` in plain PyTorch: the oracle, the fallback and the benchmark's baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    groups: int = 1,
    state: Tensor | None = None,
) -> Tensor:
    """Pad in front with zeros or the state, and convolve."""
    reach = (weight.shape[-1] - 1) * dilation
    padded = F.pad(x, (reach, 0)) if state is None else torch.cat((state, x), dim=-1)
    return convolve(padded, x.shape[-1], weight, bias, dilation, groups)


def convolve(
    padded: Tensor, length: int, weight: Tensor, bias: Tensor | None, dilation: int, groups: int
) -> Tensor:
    """Convolve what is padded already; torch refuses results of no length."""
    if length == 0:
        padded = F.pad(padded, (0, 1))

    return F.conv1d(padded, weight, bias, dilation=dilation, groups=groups)[..., :length]
