"""Base densities: what a flow maps data to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.ops import philox_normal, philox_uniform

__all__ = ["BASES", "Base", "StandardLogistic", "StandardNormal"]


class Base(nn.Module, ABC):
    """A factorial density of fixed shape; scales that are learned belong to the flow.

    Precision: at least float32, log-densities in nats.
    """

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of z (B, *E), (B,), in nats."""
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return self.elementwise_log_prob(z).flatten(1).sum(1)

    @abstractmethod
    def elementwise_log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of each element."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], seed: Tensor, dtype: torch.dtype) -> Tensor:
        """Draw noise of a shape whose first dim counts samples; a function of the seed."""


class StandardNormal(Base):
    r""":math:`\log p(z) = -\frac12 (z^2 + \log 2\pi)` for each element."""

    def elementwise_log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of each element."""
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def sample(self, shape: tuple[int, ...], seed: Tensor, dtype: torch.dtype) -> Tensor:
        """Draw standard normals."""
        return philox_normal(shape, seed=seed, dtype=dtype, device=seed.device)


class StandardLogistic(Base):
    r""":math:`\log p(z) = -z - 2 \log(1 + e^{-z})` for each element, heavier in the tails."""

    def elementwise_log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of each element."""
        return -F.softplus(z) - F.softplus(-z)

    def sample(self, shape: tuple[int, ...], seed: Tensor, dtype: torch.dtype) -> Tensor:
        """Draw by inverting the distribution function."""
        u = philox_uniform(shape, seed=seed, dtype=dtype, device=seed.device)
        # Uniforms are multiples of 2^-24 in [0, 1): half a step keeps them off both ends.
        u = (u + 2**-25).clamp(max=1 - 2**-24)
        return u.log() - torch.log1p(-u)


BASES: dict[str, type[Base]] = {"normal": StandardNormal, "logistic": StandardLogistic}
