"""Which tokens may be drawn: temperature, the k likeliest, the nucleus; and the draw itself."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating

__all__ = ["check_filters", "filter_logits", "pick_token"]


def filter_logits(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    r"""Return logits of the tokens that may be drawn, and minus infinity of the others.

    .. math:: \tilde{l} = l / \tau; \qquad
              i \in \text{top-}k \iff \tilde{l}_i \ge \tilde{l}_{(k)}; \qquad
              i \in \text{top-}p \iff \sum_{j : \tilde{l}_j > \tilde{l}_i} p_j < P

    The temperature comes first, then the k likeliest, then, of the distribution that is left, the
    nucleus: the smallest set of likeliest tokens whose probabilities reach P. Tokens equally likely
    stand or fall together, so that ties may leave more than k. The likeliest always stay.

    Arguments:
        logits: of all tokens.
        temperature: tau; 0 leaves the likeliest alone.
        top_k: k; None, or one that reaches the number of tokens, leaves all.
        top_p: P; None or 1 leaves all.

    Shapes:
        logits (*, V); result (*, V).

    Precision:
        At least float32; the nucleus sums in float64.

    Gradients:
        As those of the logits that stay.

    Raises:
        TypeError: logits are no floating-point tensor.
        ValueError: an option is out of its range; names it.

    References:
        Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", 2018, section 5.2 (top-k).
        Holtzman, Buys, Du, Forbes, Choi, "The Curious Case of Neural Text Degeneration", 2020,
        equations 2 and 3 (nucleus).

    Example:
        >>> import torch
        >>> from dgm_fast.sampling import filter_logits
        >>> p = torch.tensor([0.1, 0.4, 0.2, 0.3])
        >>> filter_logits(p.log(), top_k=2).isfinite().tolist()
        [False, True, False, True]
        >>> filter_logits(p.log(), top_p=0.75).isfinite().tolist()  # 0.4 and 0.3 do not reach it
        [False, True, True, True]
    """
    check_floating("logits", logits)
    check_filters(temperature, top_k, top_p)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        return _keep(logits, logits.amax(-1, keepdim=True))

    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = _keep(logits, logits.topk(top_k, dim=-1).values[..., -1:])
    if top_p is not None and top_p < 1:
        logits = _keep(logits, _edge_of_nucleus(logits, top_p))
    return logits


def check_filters(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError unless the options of `filter_logits` are in their ranges."""
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0; got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1; got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1]; got {top_p}")


def pick_token(logits: Tensor, noise: Tensor) -> Tensor:
    """Return the tokens whose stretch of the cumulative distribution holds the uniform.

    A token of probability zero, such as one that was filtered out, is never picked.

    Shapes:
        logits (B, V), noise (B, 1) in [0, 1); result (B,), int64.

    Precision:
        Sums in float64.
    """
    ends = logits.double().softmax(-1).cumsum(-1)
    # The last end is 1 up to rounding: as a share of it, a uniform lies below the last stretch's.
    return (ends <= noise.double() * ends[:, -1:]).sum(-1)


def _keep(logits: Tensor, lowest: Tensor) -> Tensor:
    return logits.masked_fill(logits < lowest, float("-inf"))


def _edge_of_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return the lowest logit (*, 1) that stays."""
    sorted_logits = logits.sort(dim=-1, descending=True).values
    probability = sorted_logits.double().softmax(-1)
    before = probability.cumsum(-1) - probability
    # The first stays even where rounding leaves something before it.
    last = (before < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
    return sorted_logits.gather(-1, last)
