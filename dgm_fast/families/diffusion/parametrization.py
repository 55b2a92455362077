r"""What a diffusion network may predict, and how each prediction gives the others.

With :math:`x_t = \alpha x_0 + \sigma \epsilon` known, one of noise :math:`\epsilon`, velocity
:math:`v = \alpha \epsilon - \sigma x_0` and :math:`x_0` fixes the other two.
"""

from __future__ import annotations

from torch import Tensor

from dgm_fast._core.schedule import check_target, per_sample

__all__ = ["convert"]


def convert(
    prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: str, target: str
) -> Tensor:
    r"""Turn a prediction of `source` into the prediction of `target` that it implies.

    .. math:: x_0 = \frac{x_t - \sigma \epsilon}{\alpha}
                  = \frac{\alpha x_t - \sigma v}{\alpha^2 + \sigma^2}, \quad
              \epsilon = \frac{x_t - \alpha x_0}{\sigma}
                  = \frac{\sigma x_t + \alpha v}{\alpha^2 + \sigma^2}, \quad
              v = \alpha \epsilon - \sigma x_0

    Arguments:
        prediction: (B, *E).
        x_t: (B, *E).
        alpha: (B,), the schedule's at each sample's time.
        sigma: (B,), likewise.
        source: `noise`, `velocity` or `x0`.
        target: likewise.

    Shapes:
        Returns (B, *E).

    Raises:
        ValueError: `source` or `target` is none of the three.

    References:
        Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022,
        appendix D.

    Example:
        >>> import torch
        >>> x0, noise = torch.tensor([[2.0]]), torch.tensor([[1.0]])
        >>> alpha, sigma = torch.tensor([0.8]), torch.tensor([0.6])
        >>> convert(noise, 0.8 * x0 + 0.6 * noise, alpha, sigma, "noise", "x0")
        tensor([[2.]])
    """
    check_target(source)
    check_target(target)
    if source == target:
        return prediction

    alpha, sigma = (per_sample(value, x_t, x_t.dtype) for value in (alpha, sigma))
    if source == "velocity":
        length = alpha**2 + sigma**2
        if target == "x0":
            return (alpha * x_t - sigma * prediction) / length
        return (sigma * x_t + alpha * prediction) / length

    noise = prediction if source == "noise" else (x_t - alpha * prediction) / sigma
    if target == "noise":
        return noise
    x0 = prediction if source == "x0" else (x_t - sigma * prediction) / alpha
    return x0 if target == "x0" else alpha * noise - sigma * x0
