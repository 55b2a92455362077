"""The sampler of models that look at the last few tokens alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast.sampling.sequence import SequenceSampler, SequenceState

__all__ = ["WindowSampler"]


class WindowSampler(SequenceSampler):
    r"""Draws the tokens of a Markov model, whose memory is the tokens themselves.

    .. math:: x_t \sim \text{softmax}(l(x_{t-d}, \dots, x_{t-1}))

    A token is one call of `logits_of`, for all sequences.

    Arguments:
        logits_of: maps the last `order` inputs (B, order), the symbol V before the first token, to
            the logits (B, V) of the next.
        order: d, how many tokens a token depends on.
        vocabulary: V.
        device: of the model.
        dtype: of the noise.

    Shapes:
        Of tokens and noise as in `SequenceSampler`.

    Precision:
        That of `logits_of`; tokens are picked in float64.

    Gradients:
        None.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.

    References:
        Shannon, "A Mathematical Theory of Communication", 1948, section 3.

    Example:
        >>> import torch
        >>> from dgm_fast.sampling.window import WindowSampler
        >>> up = lambda last: 100.0 * torch.eye(4)[(last[:, -1] + 1) % 5 % 4]
        >>> sampler = WindowSampler(up, 1, 4, torch.device("cpu"), torch.float32)
        >>> sampler.draw(sampler.start(1), 6)[0]
        tensor([[0, 1, 2, 3, 0, 1]])
    """

    def __init__(
        self,
        logits_of: Callable[[Tensor], Tensor],
        order: int,
        vocabulary: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(vocabulary, 0, vocabulary, device, dtype)
        self.logits_of, self.order = logits_of, order

    def _begin(self, batch: int) -> None:
        return None

    def _next(self, state: SequenceState) -> Tensor:
        last = state.buffer[:, max(0, state.time - self.order) : state.time]
        missing = self.order - last.shape[1]
        if missing:
            last = torch.cat([state.first[:, None].expand(-1, missing), last], dim=1)
        return self.logits_of(last)
