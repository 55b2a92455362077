"""Rotary positions: pairs of a head's channels turn with their place in the sequence."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotary_table", "rotate"]

BASE = 10000.0


def rotary_table(length: int, width: int, device: torch.device | None = None) -> Tensor:
    r"""Return cosine and sine of every place's angles, (2, T, width / 2), float32.

    .. math:: \theta_{t i} = t \, 10000^{-2 i / \text{width}}

    References:
        Su, Lu, Pan, Murtadha, Wen, Liu, "RoFormer: Enhanced Transformer with Rotary Position
        Embedding", 2021, equation 15.
    """
    place = torch.arange(length, dtype=torch.float64, device=device)
    pair = torch.arange(0, width, 2, dtype=torch.float64, device=device)
    angle = place[:, None] * BASE ** (-pair / width)
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    r"""Turn channel i of the first half together with channel i of the second.

    .. math:: (a, b) \mapsto (a \cos\theta - b \sin\theta,\; b \cos\theta + a \sin\theta)

    The product of a query and a key so turned depends on how far apart they stand alone.

    Shapes:
        x (*, T, width), table (2, T, width / 2).

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 8)
        >>> table = rotary_table(30, 8)
        >>> q, k = (rotate(each.expand(30, 8), table) for each in (q, k))
        >>> torch.allclose(q[7] @ k[4], q[25] @ k[22], atol=1e-5)
        True
    """
    cos, sin = table.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
