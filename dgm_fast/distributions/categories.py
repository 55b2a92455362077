"""Which category a uniform decides on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pick_category"]


def pick_category(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, dim: int = -1
) -> Tensor:
    r"""Invert the cumulative distribution of categories.

    .. math:: c = \#\{k : \sum_{j \le k} p_j \le u\}, \qquad p = softmax(logits / temperature)

    A category of probability zero is never picked.

    Arguments:
        logits: unnormalized.
        uniform: in [0, 1].
        temperature: divides the logits; 0 picks the likeliest.
        dim: of the categories.

    Shapes:
        logits (*, K, *), uniform and result (*, *), the result int64.

    Precision:
        Sums in the dtype of the logits: a uniform within rounding of the border between two
        categories may fall to either.
    """
    if temperature == 0:
        return logits.argmax(dim)

    p = (logits / temperature).softmax(dim)
    ends, places = p.cumsum(dim), torch.arange(p.shape[dim], device=p.device)
    wanted = uniform.unsqueeze(dim) * ends.narrow(dim, -1, 1)
    passed = (ends <= wanted).sum(dim)
    # Rounding can leave all ends at or below the uniform: the last that may be drawn has the rest.
    places = places.view(-1, *[1] * (p.ndim - 1 - dim % p.ndim))
    return torch.minimum(passed, torch.where(p > 0, places, 0).amax(dim))
