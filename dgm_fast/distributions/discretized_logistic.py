"""The logistic distribution, its mass gathered in levels."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["DiscretizedLogistic", "lowest_log_scale"]

# PixelCNN++'s floor: a scale of 1/1097 keeps gradients within float32 and still gives one level of
# 256 all the mass, since a level is 8.6 such scales wide.
_LOWEST_LOG_SCALE = -7.0


def lowest_log_scale(levels: int) -> float:
    """Return the floor of log-scales: -7, or what makes a level as wide where there are more."""
    return _LOWEST_LOG_SCALE - max(0.0, math.log((levels - 1) / 255))


class DiscretizedLogistic(Distribution):
    r"""Gives the integers 0..L-1 the mass that a logistic has in their cells of [-1, 1].

    Level k lies at :math:`v_k = 2k / (L-1) - 1`, in the cell :math:`v_k \pm h`,
    :math:`h = 1 / (L-1)`; the first and the last cell reach to infinity, so that the masses sum
    to 1.

    .. math:: P(k) = \sigma(u) - \sigma(l) = \sigma(u)\,\sigma(-l)\,(1 - e^{-2h/s}), \quad
              u, l = (v_k \pm h - \mu) / s

    Arguments:
        loc: :math:`\mu`, in units of the cells' [-1, 1].
        log_scale: :math:`\ln s`; values below -7 count as -7. Beyond 256 levels the floor falls as
            their width does, to -12.5 of 65,536.
        levels: L, at least 2.

    Shapes:
        loc and log_scale broadcast to the batch shape.

    Precision:
        The product form never subtracts two nearly equal probabilities, so the log-probability
        of each level keeps the relative accuracy of its terms, and it is finite for every
        log_scale and for :math:`|\mu| < 10^{35}`.

    References:
        Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017, eq. 2.

    Example:
        >>> import torch
        >>> p = DiscretizedLogistic(torch.tensor(0.1), torch.tensor(-1.0), levels=17)
        >>> round(float(p.log_prob(torch.arange(17.0)).exp().sum()), 5)
        1.0
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "log_scale": constraints.real,
    }

    def __init__(
        self, loc: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.loc, log_scale = torch.broadcast_tensors(loc, log_scale)
        self.log_scale = log_scale.clamp(min=lowest_log_scale(levels))
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers 0..L-1."""
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        r"""Expected level, :math:`\sum_{k=1}^{L-1} P(X \ge k)`."""
        top = self.levels - 1
        borders = (2 * torch.arange(top, device=self.loc.device, dtype=self.loc.dtype) + 1) / top
        above = (self.loc + 1).unsqueeze(-1) - borders  # (*, L - 1)
        return torch.sigmoid(above * torch.exp(-self.log_scale).unsqueeze(-1)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of levels, in nats."""
        if self._validate_args:
            self._validate_sample(value)

        top = self.levels - 1
        centered = value * (2 / top) - 1 - self.loc
        inverse_scale = torch.exp(-self.log_scale)
        upper = (centered + 1 / top) * inverse_scale
        lower = (centered - 1 / top) * inverse_scale
        width = _log_one_minus_exp_minus_exp(math.log(2 / top) - self.log_scale)

        zero = torch.zeros_like(upper)
        first, last = value <= 0, value >= top
        # What lies beyond an end is not cut off.
        return (
            torch.where(last, zero, F.logsigmoid(upper))
            + torch.where(first, zero, F.logsigmoid(-lower))
            + torch.where(first | last, zero, width)
        )

    def icdf(self, value: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the level whose stretch of the cumulative distribution holds `value`.

        The temperature multiplies the scale.
        """
        logistic = self.loc + temperature * self.log_scale.exp() * torch.logit(value)
        top = self.levels - 1
        return ((logistic + 1) * (top / 2)).round().clamp(0, top)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's own)
        """Draw levels."""
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))


def _log_one_minus_exp_minus_exp(log_width: Tensor) -> Tensor:
    """Return log(1 - exp(-w)) from log w, without underflow of w."""
    # Below w = e^-15 the series log w - w / 2 is exact to w^2 / 24 < 4e-15. Each branch is kept in
    # its range, so that the other's derivative is not NaN.
    width = log_width.clamp(min=-15).exp()
    exact = torch.log(-torch.expm1(-width))
    return torch.where(log_width < -15, log_width - 0.5 * log_width.clamp(max=-15).exp(), exact)
