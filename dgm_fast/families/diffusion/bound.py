"""The variational bound of a diffusion model, term by term, and the decoder of its last step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast.families.diffusion.schedules import Schedule

__all__ = ["BoundTerms", "decoder_nats", "discretized_gaussian_log_prob", "term_nats"]


@dataclass(frozen=True)
class BoundTerms:
    r"""Hold the terms of a variational bound, of each sample.

    .. math:: -\log p(x_0) \le \mathbb{E} \left[L_0 + \sum_{t=2}^{T} L_{t-1} + L_T\right]

    Attributes:
        l_0_nats: (B,), the decoder's :math:`-\log p(x_0 \mid x_1)`.
        l_t_nats: (B, T - 1), the divergences of the steps between, from the data outwards.
        l_T_nats: (B,), the divergence of q(x_T | x_0) from the prior.
        features: D, values of one sample.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equation 5.

    Example:
        >>> import torch
        >>> terms = BoundTerms(torch.ones(2), torch.ones(2, 9), torch.zeros(2), features=5)
        >>> terms.total_nats
        tensor([10., 10.])
        >>> round(terms.mean_bpd()["total_bpd"], 3)  # 10 nats over 5 values
        2.885
    """

    l_0_nats: Tensor
    l_t_nats: Tensor
    l_T_nats: Tensor  # noqa: N815 -- T is the last time, not a word
    features: int

    @property
    def total_nats(self) -> Tensor:
        """The whole bound, (B,)."""
        return self.l_0_nats + self.l_t_nats.sum(1) + self.l_T_nats

    def per_time_bpd(self) -> Tensor:
        """Return the means of l_t over the samples, (T - 1,), in bits a value."""
        return self.l_t_nats.mean(0) / (self.features * math.log(2))

    def mean_bpd(self) -> dict[str, float]:
        """Return means over the samples in bits a value: the three kinds of terms and the total."""
        terms = {
            "l_0_bpd": self.l_0_nats,
            "l_t_bpd": self.l_t_nats.sum(1),
            "l_T_bpd": self.l_T_nats,
            "total_bpd": self.total_nats,
        }
        bits = self.features * math.log(2)
        return {name: value.double().mean().item() / bits for name, value in terms.items()}


def term_nats(
    schedule: Schedule, x0: Tensor, t: Tensor, estimate: Tensor, levels: int | None
) -> Tensor:
    """Return the bound's term at each sample's time, (B,), for estimates of x_0 (B, *E).

    Arguments:
        schedule: of the model.
        x0: the data in the network's units, (B, *E).
        t: (B,) int64; at 0 the term is L_0.
        estimate: of x0.
        levels: of the data, or None.
    """
    squared = (estimate - x0).square().flatten(1)
    error = schedule.kl_weight[t] * squared.sum(1) + squared.shape[1] * schedule.kl_constant[t]
    if levels is None:
        return error
    return torch.where(t == 0, decoder_nats(schedule, x0, estimate, levels), error)


def decoder_nats(schedule: Schedule, x0: Tensor, mean: Tensor, levels: int) -> Tensor:
    """Return -log p(x_0 | x_1) of grey levels, (B,)."""
    scale = schedule.decoder_variance.sqrt().to(mean.dtype)
    return -discretized_gaussian_log_prob(x0, mean, scale, levels).flatten(1).sum(1)


def discretized_gaussian_log_prob(x: Tensor, mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    r"""Return the log-probability of grey levels under a Gaussian on [-1, 1], in nats.

    .. math:: \log p(x) = \log \left(\Phi\left(\frac{x + h - \mu}{\sigma}\right)
              - \Phi\left(\frac{x - h - \mu}{\sigma}\right)\right),
              \quad h = \frac{1}{\text{levels} - 1}

    where the lowest level, -1, reaches down to minus infinity and the highest, 1, up to infinity,
    so that the levels' probabilities sum to one.

    Arguments:
        x: the levels scaled to [-1, 1], 2 k / (levels - 1) - 1.
        mean: of the Gaussian.
        scale: its standard deviation.
        levels: number of grey levels, at least 2.

    Shapes:
        `x`, `mean` and `scale` broadcast; the result has their common shape.

    Precision:
        That of `mean`. No probability is the difference of near equal ones, and logarithms and
        gradients stay finite however far the mean lies.

    References:
        Ho, Jain, Abbeel, 2020, equation 13.

    Example:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 17)
        >>> p = discretized_gaussian_log_prob(x, torch.tensor(0.3), torch.tensor(0.2), 17).exp()
        >>> round(p.sum().item(), 5)
        1.0
    """
    half = 1 / (levels - 1)
    # By symmetry the mean may lie above the level: then the lower end of its bin is below the
    # mean, and the upper end too, except in the bin that holds the mean.
    side = torch.where(x > mean, -1.0, 1.0).to(mean.dtype)
    level, centre = side * x, side * (x - mean)
    upper, lower = (
        (centre + half) / (math.sqrt(2) * scale),
        (centre - half) / (math.sqrt(2) * scale),
    )
    top, bottom = level > 1 - half / 2, level < half / 2 - 1
    around = top | (upper > 0)

    # Around the mean Phi(u) - Phi(l) = (erf(u) - erf(l)) / 2 adds two positive numbers.
    erf_upper = torch.where(top, 1.0, torch.erf(upper))
    erf_lower = torch.where(bottom, -1.0, torch.erf(lower))
    inside = (erf_upper - erf_lower).clamp(min=torch.finfo(mean.dtype).tiny).log()

    # Below it Phi(-a) = exp(-a^2) erfcx(a) / 2, in which erfcx neither vanishes nor grows. Where
    # the other case is taken, a stands at zero so that gradients stay finite.
    a, b = torch.where(around, 0.0, -upper), torch.where(around, 2 * half / scale, -lower)
    near, far = torch.special.erfcx(a), torch.special.erfcx(b)
    ratio = torch.where(bottom, 0.0, far / near * torch.exp((a - b) * (a + b)))
    outside = near.log() - a**2 + torch.log1p(-ratio)

    return torch.where(around, inside, outside) - math.log(2)
