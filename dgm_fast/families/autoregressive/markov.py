"""Markov: counts of what follows the last tokens, fitted in one pass (Shannon, 1948).

A table for each order k = 0, ..., d has, of each k tokens that were seen one after another, how
often each token followed. Nothing is trained: the tables are the fit. What was never seen is left
some probability in one of two ways:

- `additive`: alpha is added to each count of the longest context there is.
- `backoff`: each order adds the distribution of the next lower one, weighted by how many different
  tokens have followed its context, as Witten and Bell estimate the chance of a new one. The lowest
  adds the uniform distribution. A context that was never seen leaves all to the lower order.

Deviations from the usual: the first tokens of a sequence have the orders that they have tokens
before them for, rather than contexts of a symbol for the beginning, so that windows of a text, too,
begin as anything does.

References: Shannon, "A Mathematical Theory of Communication", 1948, section 3; Witten, Bell, "The
Zero-Frequency Problem", 1991, method C; Chen, Goodman, "An Empirical Study of Smoothing Techniques
for Language Modeling", 1999, section 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dgm_fast.families import checks
from dgm_fast.families.autoregressive.token_model import (
    TokenConfig,
    TokenModel,
    check_choices,
    last_inputs,
)
from dgm_fast.sampling import WindowSampler

__all__ = ["Markov", "MarkovConfig"]


@dataclass(frozen=True)
class MarkovConfig(TokenConfig):
    """Hyperparameters of `Markov`.

    Attributes:
        order: d, how many tokens a token depends on.
        smoothing: `additive` or `backoff`.
        alpha: what `additive` adds to every count.
    """

    order: int = 3
    smoothing: Literal["additive", "backoff"] = "backoff"
    alpha: float = 1.0

    _lowest: ClassVar[dict[str, int]] = TokenConfig._lowest | {"order": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("smoothing", self.smoothing, ("additive", "backoff"))
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive; got {self.alpha}")
        if self.vocabulary ** (self.order + 1) >= 2**63:
            raise ValueError(
                f"order must leave fewer than 2^63 contexts of {self.vocabulary} tokens and what "
                f"follows; got {self.order}"
            )


class _Table(NamedTuple):
    """What was seen of one order: grams, sorted, and of each context how often and how many."""

    grams: Tensor
    counts: Tensor
    contexts: Tensor
    totals: Tensor
    kinds: Tensor


class Markov(TokenModel):
    r"""A density of token sequences of any length, each token given the last d.

    .. math:: p_k(x \mid h) = \frac{c(h x) + u(h) \, p_{k-1}(x \mid h')}{c(h) + u(h)}
              \quad \text{or} \quad \frac{c(h x) + \alpha}{c(h) + \alpha V}

    with c(h x) the number of times that x followed the k tokens h, c(h) that of anything, u(h) how
    many different tokens, and h' without its first token.

    Arguments:
        config: hyperparameters.
        impl: for the sake of other families.
        device: of the tables; default torch's.
        dtype: unused: counts are integers.

    Shapes:
        x (B, T), integers of any dtype.

    Units:
        Log-likelihoods are of a whole sequence, in nats; by T they are nats a token.

    Precision:
        float64.

    Gradients:
        None: `fit` is what there is instead.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a token is outside its range.

    References:
        Chen, Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999,
        section 2.4.

    Example:
        >>> import torch
        >>> from dgm_fast.families import Markov, MarkovConfig
        >>> model = Markov(MarkovConfig(vocabulary=3, order=1))
        >>> _ = model.fit(torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 1]))
        >>> model(torch.tensor([[0, 1]])).exp()[0, 1].round(decimals=2).tolist()  # after a 0
        [0.08, 0.85, 0.06]
        >>> model.sample(2, length=50).shape
        torch.Size([2, 50])
    """

    family: ClassVar[str] = "markov"
    config_class: ClassVar[type] = MarkovConfig

    def _build(self, config: MarkovConfig) -> None:
        for order in range(config.order + 1):
            self.register_buffer(f"grams_{order}", torch.zeros(0, dtype=torch.int64))
            self.register_buffer(f"counts_{order}", torch.zeros(0, dtype=torch.int64))
        self._made: list[_Table] | None = None

    @torch.no_grad()
    def fit(self, x: Tensor) -> Markov:
        """Count the tokens of a sequence (T,), or of rows (B, T), in the place of any before.

        Returns the model itself.
        """
        if x.ndim not in (1, 2):
            raise ValueError(f"x must have shape (T,) or (B, T); got {tuple(x.shape)}")
        checks.check_integers("x", x, self.vocabulary - 1)
        device, _ = self._where()
        tokens = torch.atleast_2d(x.to(device).long())
        # Of each place with enough tokens before it, the context and what follows as one number.
        codes = tokens
        for order in range(self.config.order + 1):
            if order > 0:
                codes = codes[:, 1:]
                codes = codes + tokens[:, : codes.shape[1]] * self.vocabulary**order
            grams, counts = codes.flatten().unique(return_counts=True)
            setattr(self, f"grams_{order}", grams)
            setattr(self, f"counts_{order}", counts)
        self._made = None
        return self

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens, first = self._tokens(x, context)
        inputs = torch.cat([first[:, None], tokens[:, :-1]], dim=1)
        return self._probability(self._windows(inputs), tokens[..., None]).log().sum((1, 2))

    def sampler(self) -> WindowSampler:
        """Return a sampler of the tables as they are now, for sequences in pieces."""
        fixed = Markov(self.config, device=self._where()[0])
        fixed.load_state_dict(self.state_dict())

        def logits_of(last: Tensor) -> Tensor:
            return fixed._of_all(last[:, None]).squeeze(1)

        return WindowSampler(logits_of, self.config.order, self.vocabulary, *self._where())

    def _network(self, inputs: Tensor) -> Tensor:
        return self._of_all(self._windows(inputs))

    def _windows(self, inputs: Tensor) -> Tensor:
        return last_inputs(inputs, self.config.order, self.vocabulary)

    def _of_all(self, last: Tensor) -> Tensor:
        """Return the log-probabilities (B, T, V) after the last tokens (B, T, d)."""
        tokens = torch.arange(self.vocabulary, device=last.device)
        return self._probability(last, tokens.expand(*last.shape[:2], -1)).log()

    def _probability(self, last: Tensor, tokens: Tensor) -> Tensor:
        """Return the probabilities of tokens (B, T, n) after the last tokens (B, T, d)."""
        V, additive = self.vocabulary, self.config.smoothing == "additive"
        p = torch.full(tokens.shape, 1 / V, dtype=torch.float64, device=tokens.device)
        code = torch.zeros_like(last[..., 0]) if last.shape[-1] else tokens.new_zeros(p.shape[:2])
        there = torch.ones_like(code, dtype=torch.bool)
        for order, table in enumerate(self._tables()):
            if order > 0:
                symbol = last[..., -order]
                there = there & (symbol < V)
                code = code + symbol.clamp(max=V - 1) * V ** (order - 1)
            count = _look_up(table.grams, table.counts, code[..., None] * V + tokens)
            total, kinds = (
                _look_up(table.contexts, each, code)[..., None]
                for each in (table.totals, table.kinds)
            )
            if additive:
                alpha = self.config.alpha
                mixed = (count + alpha) / (total + alpha * V)
            else:
                mixed = torch.where(total > 0, (count + kinds * p) / (total + kinds), p)
            p = torch.where(there[..., None], mixed, p)
        return p

    def _tables(self) -> list[_Table]:
        if self._made is None:
            self._made = [
                _table(getattr(self, f"grams_{k}"), getattr(self, f"counts_{k}"), self.vocabulary)
                for k in range(self.config.order + 1)
            ]
        return self._made

    def _where(self) -> tuple[torch.device, torch.dtype]:
        return self.counts_0.device, torch.float64

    def _apply(self, fn: Any, recurse: bool = True) -> Markov:
        self._made = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Tables have as many rows as there were grams.
        for name, buffer in self.named_buffers(recurse=False):
            saved = state.get(prefix + name)
            if saved is not None and saved.ndim == 1:
                setattr(self, name, buffer.new_zeros(saved.shape))
        self._made = None
        super()._load_from_state_dict(state, prefix, *rest)


def _table(grams: Tensor, counts: Tensor, vocabulary: int) -> _Table:
    contexts, place, kinds = (grams // vocabulary).unique_consecutive(
        return_inverse=True, return_counts=True
    )
    totals = torch.zeros_like(contexts).index_add_(0, place, counts)
    return _Table(grams, counts, contexts, totals, kinds)


def _look_up(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Return the values, float64, of the wanted ones among sorted keys, 0 where there is none."""
    if len(keys) == 0:
        return torch.zeros(wanted.shape, dtype=torch.float64, device=wanted.device)
    place = torch.searchsorted(keys, wanted.contiguous()).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0).double()
