"""`wavenet_layer` in plain PyTorch: the oracle, the fallback and the benchmark's baseline."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def wavenet_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    *,
    condition: Tensor | None = None,
    dilation: int = 1,
) -> tuple[Tensor, Tensor]:
    """Convolve what is padded in front, gate, and add a 1x1 convolution of that to x."""
    padded = F.pad(x, ((weight.shape[2] - 1) * dilation, 0))
    h = F.conv1d(padded, weight, bias, dilation=dilation)
    if condition is not None:
        h = h + condition

    a, b = h.chunk(2, dim=1)
    z = a.tanh() * b.sigmoid()
    # Under autocast the sum, too, is in its dtype.
    residual = F.conv1d(z, residual_weight, residual_bias)
    return x.to(residual.dtype) + residual, z
