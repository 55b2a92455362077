"""The oracle sampler of an autoregressive model: one full pass of the network a feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["naive_sample"]


def naive_sample(
    parameters_of: Callable[[Tensor], Tensor],
    pick: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    order: Sequence[int],
    x: Tensor,
    *,
    given: Tensor | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Tensor:
    r"""Fill in features one after another, each drawn given all those before it.

    .. math:: x_{\sigma(t)} \sim p(\cdot \mid x_{\sigma(1)}, \dots, x_{\sigma(t-1)}),
              \quad t = 1, \dots, D

    Costs D passes of the network for D features; it is what faster samplers are checked against:
    given the same noise they must return the same values.

    Arguments:
        parameters_of: maps x (B, D, *V) to the parameters (B, D, P) of every feature, those of a
            feature depending only on the features before it.
        pick: maps parameters (B, P) and noise (B, N) of one feature to its value (B, *V).
        noise: of every feature.
        order: the features in the order they are drawn; one left out keeps its value in `x`.
        x: what the network sees in the place of features not yet drawn. Not modified.
        given: True for features that keep their value in `x`; the others are drawn given those
            that come before them in the order, whatever the later ones are.
        progress: told the number of features done and that of all, after each.

    Shapes:
        noise (B, D, N), x (B, D, *V) with V the values of a feature that are drawn at once, most
        often none; given (B, D) bool; result (B, D, *V).

    Precision:
        The dtype of `x`.

    Gradients:
        None: call it under `torch.no_grad()`.

    Example:
        >>> import torch
        >>> from dgm_fast.sampling import naive_sample
        >>> running_sum = lambda x: (x.cumsum(1) - x).unsqueeze(-1)
        >>> add = lambda parameters, noise: (parameters + noise).squeeze(-1)
        >>> naive_sample(running_sum, add, torch.ones(1, 4, 1), range(4), torch.zeros(1, 4))
        tensor([[1., 2., 4., 8.]])
    """
    x = x.clone()
    # One look at the device, rather than one a feature.
    whole = [False] * x.shape[1] if given is None else given.all(0).tolist()
    for done, feature in enumerate(order, start=1):
        if not whole[feature]:
            value = pick(parameters_of(x)[:, feature], noise[:, feature])
            if given is not None:
                keep = given[:, feature].view(-1, *[1] * (value.ndim - 1))
                value = torch.where(keep, x[:, feature], value)
            x[:, feature] = value
        if progress is not None:
            progress(done, len(order))

    return x
