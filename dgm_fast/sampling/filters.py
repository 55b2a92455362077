"""Which tokens may be drawn: temperature, the k likeliest, the nucleus; and the draw itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating
from dgm_fast.distributions.categories import pick_category

__all__ = ["Filters", "check_filters", "filter_logits", "pick_token"]


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
    """Raise TypeError or ValueError unless the options of `filter_logits` are in their ranges."""
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0; got {temperature}")
    if top_k is not None and not isinstance(top_k, int):
        raise TypeError(f"top_k must be an int; got {top_k!r}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1; got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1]; got {top_p}")


def pick_token(logits: Tensor, noise: Tensor) -> Tensor:
    r"""Return the tokens whose stretch of the cumulative distribution holds the uniform.

    .. math:: x = \#\{i : \sum_{j \le i} p_j \le u\}, \qquad p = \text{softmax}(l)

    A token of probability zero, such as one that was filtered out, is never picked.

    Arguments:
        logits: l, unnormalized; minus infinity of what must not be drawn.
        noise: u, uniform.

    Shapes:
        logits (*, V), noise (*, 1) in [0, 1); result (*), int64.

    Precision:
        Sums in float64.

    Gradients:
        None: the result is of integers.

    References:
        Devroye, "Non-Uniform Random Variate Generation", 1986, section III.2 (inversion).

    Example:
        >>> import torch
        >>> from dgm_fast.sampling import pick_token
        >>> p = torch.tensor([0.1, 0.2, 0.7]).expand(3, -1)
        >>> pick_token(p.log(), torch.tensor([[0.05], [0.15], [0.31]])).tolist()
        [0, 1, 2]
    """
    return pick_category(logits.double(), noise[..., 0].double())


@dataclass(frozen=True)
class Filters:
    """The options of `filter_logits`, of a sampler whose values need not be categorical.

    Attributes:
        temperature: divides logits and multiplies scales; 0 leaves no chance.
        top_k: draw among so many likeliest values alone.
        top_p: draw among the likeliest values that together have this probability alone.

    Raises:
        ValueError: an option is out of its range; names it.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_filters(self.temperature, self.top_k, self.top_p)

    def check(self, is_categorical: bool, distribution: str) -> None:
        """Raise ValueError where values of another distribution are to be left out."""
        if not is_categorical and (self.top_k, self.top_p) != (None, None):
            raise ValueError(
                f"top_k and top_p must not be given but of categorical values; these are "
                f"{distribution}: got {self.top_k} and {self.top_p}"
            )

    @property
    def constants(self) -> tuple[float, int, float]:
        """As a kernel takes them: temperature, top_k and top_p, 0 and 1 where all may be drawn."""
        return self.temperature, self.top_k or 0, 1.0 if self.top_p is None else self.top_p

    def pick(
        self,
        pick: Callable[[Tensor, Tensor, float], Tensor],
        parameters: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Return the values that noise stands for, by `pick(parameters, noise, temperature)`.

        Where values are left out, parameters are logits (*, V), and noise is uniform (*, 1).
        """
        leaves_out = (self.top_k, self.top_p) != (None, None)
        if self.temperature == 0 or not leaves_out:
            return pick(parameters, noise, self.temperature)
        return pick_token(filter_logits(parameters, **vars(self)), noise)


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
