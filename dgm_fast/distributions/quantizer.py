"""The levels that a sampled signal is rounded to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["SCALES", "Quantizer"]

SCALES = ("mu_law", "linear")


@dataclass(frozen=True)
class Quantizer:
    r"""Rounds a signal in [-1, 1] to one of L levels, which lie evenly on a scale of their own.

    .. math:: f(x) = \operatorname{sign}(x) \frac{\ln(1 + \mu |x|)}{\ln(1 + \mu)}, \quad
              k = \operatorname{round}\!\left(\frac{(f(x) + 1) (L - 1)}{2}\right)

    for :math:`\mu = L - 1` is mu-law companding: quiet samples have finer levels. On the linear
    scale f(x) = x, and 65,536 levels lose nothing of 16 bits.

    Attributes:
        scale: `mu_law` or `linear`.
        levels: L, at least 2.

    Precision:
        Computes in float32 at least; level k of `decode` is k again after `encode`.

    Raises:
        ValueError: the scale is unknown, or there are fewer levels than two.

    References:
        ITU-T Recommendation G.711; van den Oord et al., "WaveNet", 2016, section 2.2.

    Example:
        >>> import torch
        >>> from dgm_fast.distributions import Quantizer
        >>> quantizer = Quantizer("mu_law", 256)
        >>> quantizer.encode(torch.tensor([-1.0, 0.01, 1.0])).tolist()
        [0, 157, 255]
        >>> round(float(quantizer.decode(torch.tensor(157))), 4)
        0.0102
    """

    scale: Literal["mu_law", "linear"] = "mu_law"
    levels: int = 256

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {self.scale!r}")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2; got {self.levels}")

    def encode(self, x: Tensor) -> Tensor:
        """Return the levels, int64, of a signal; what lies beyond [-1, 1] is taken to its end."""
        x = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(-1, 1)
        if self.scale == "mu_law":
            mu = self.levels - 1
            x = x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)
        return ((x + 1) * ((self.levels - 1) / 2)).round().long()

    def scaled(self, levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return where levels lie on their scale, -1 ... 1."""
        # A division, because it is exact at both ends.
        return levels.to(dtype) / ((self.levels - 1) / 2) - 1

    def decode(self, levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the signal that levels stand for."""
        y = self.scaled(levels, dtype)
        if self.scale == "linear":
            return y
        mu = self.levels - 1
        # At the ends expm1 rounds to a little more than mu.
        return (y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu).clamp(-1, 1)

    def borders(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the L - 1 values, rising, at which a signal passes to the next level."""
        return self.decode(torch.arange(self.levels - 1) + 0.5, dtype)
