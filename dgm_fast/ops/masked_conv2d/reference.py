"""`masked_conv2d` in plain PyTorch: the oracle, the fallback and the benchmark's baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_of(weight: Tensor, mask_type: str, channel_groups: int, gated: bool = False) -> Tensor:
    """Return the 0/1 mask of a kernel (out, in, kh, kw), in the weight's dtype.

    The two halves of a gate's channels are ordered alike, each on its own.
    """
    out, ins, height, width = weight.shape
    row, column = height // 2, width // 2
    mask = weight.new_zeros(out, ins, height, width)
    mask[:, :, :row] = 1
    mask[:, :, row, :column] = 1
    half = out // 2 if gated else out
    sees = channel_mask(half, ins, mask_type, channel_groups, weight.device)
    mask[:, :, row, column] = torch.cat((sees, sees) if gated else (sees,)).to(mask)
    return mask


def channel_mask(
    out: int, ins: int, mask_type: str, channel_groups: int, device: torch.device
) -> Tensor:
    """Return which input channel each output channel sees at its own pixel, as bool (out, in)."""
    of_out = torch.arange(out, device=device) * channel_groups // max(1, out)
    of_in = torch.arange(ins, device=device) * channel_groups // max(1, ins)
    return of_out[:, None] > of_in if mask_type == "A" else of_out[:, None] >= of_in


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask_type: str,
    channel_groups: int = 1,
    dilation: int | tuple[int, int] = 1,
    residual: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    """Convolve with the masked weight; add the residual; gate."""
    masked = weight * mask_of(weight, mask_type, channel_groups, gated)
    h = F.conv2d(x, masked, bias, padding=padding(weight, dilation), dilation=dilation)
    return finish(h, residual, gated)


def padding(weight: Tensor, dilation: int | tuple[int, int]) -> tuple[int, int]:
    """Return the zeros around an image that keep its size."""
    down, across = (dilation, dilation) if isinstance(dilation, int) else dilation
    return weight.shape[2] // 2 * down, weight.shape[3] // 2 * across


def finish(h: Tensor, residual: Tensor | None, gated: bool) -> Tensor:
    """Add the residual, and gate one half of the channels by the other."""
    if residual is not None:
        h = h + residual
    if not gated:
        return h

    a, b = h.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()
