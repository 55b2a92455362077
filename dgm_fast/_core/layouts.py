"""Ways for the same numbers to lie in memory, most of them for the strided inputs of cases."""

from __future__ import annotations

import torch
from torch import Tensor


def as_given(tensor: Tensor) -> Tensor:
    """Return the tensor itself."""
    return tensor


def chunked(tensor: Tensor) -> Tensor:
    """Return it as the first half of dim 1, as networks' outputs come."""
    return torch.cat((tensor, tensor + 1), dim=1).chunk(2, dim=1)[0]


def transposed(tensor: Tensor) -> Tensor:
    """Return it with the first dim innermost."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def sliced(tensor: Tensor) -> Tensor:
    """Return it with a gap after every element."""
    return torch.stack((tensor, tensor + 1), dim=-1)[..., 0]


def channels_last(tensor: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the channels of a pixel side by side."""
    return tensor.contiguous(memory_format=torch.channels_last)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether images lie so, and not also the plain way, as those of one channel do."""
    return (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def expanded(tensor: Tensor) -> Tensor:
    """Return its first row in place of every one."""
    return tensor[:1].expand_as(tensor)
