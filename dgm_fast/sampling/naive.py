"""The oracle sampler of an autoregressive model: one full pass of the network a feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["naive_sample"]


def naive_sample(
    parameters_of: Callable[[Tensor], Tensor],
    pick: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    order: Sequence[int],
    x: Tensor,
) -> Tensor:
    r"""Fill in features one after another, each drawn given all those before it.

    .. math:: x_{\sigma(t)} \sim p(\cdot \mid x_{\sigma(1)}, \dots, x_{\sigma(t-1)}),
              \quad t = 1, \dots, D

    Costs D passes of the network for D features; it is what faster samplers are checked against:
    given the same noise they must return the same values.

    Arguments:
        parameters_of: maps x (B, D) to the parameters (B, D, P) of every feature, those of a
            feature depending only on the features before it.
        pick: maps parameters (B, P) and noise (B, N) of one feature to its value (B,).
        noise: of every feature.
        order: the features in the order they are drawn; one left out keeps its value in `x`.
        x: what the network sees in the place of features not yet drawn. Not modified.

    Shapes:
        noise (B, D, N), x (B, D), result (B, D).

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
    for feature in order:
        x[:, feature] = pick(parameters_of(x)[:, feature], noise[:, feature])

    return x
