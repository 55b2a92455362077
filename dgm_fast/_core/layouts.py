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
    """Return images (B, C, H, W), or signals (B, C, T), with a place's channels side by side."""
    if tensor.ndim == 3:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)

    return tensor.contiguous(memory_format=torch.channels_last)


def chunked_channels_last(images: Tensor) -> Tensor:
    """Return images as the first half of the channels, side by side, of a wider network's."""
    return channels_last(torch.cat((images, images + 1), dim=1)).chunk(2, dim=1)[0]


def is_channels_last(tensor: Tensor) -> bool:
    """Whether they lie so, and not also the plain way, as those of one channel do."""
    if tensor.ndim == 3:
        return tensor.transpose(1, 2).is_contiguous() and not tensor.is_contiguous()

    return (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def empty_signals(x: Tensor, batch: int, channels: int, length: int, last: bool) -> Tensor:
    """Return memory for signals beside x, with a time's channels side by side or not."""
    if last:
        return x.new_empty(batch, length, channels).transpose(1, 2)

    return x.new_empty(batch, channels, length)


def expanded(tensor: Tensor) -> Tensor:
    """Return its first row in place of every one."""
    return tensor[:1].expand_as(tensor)
