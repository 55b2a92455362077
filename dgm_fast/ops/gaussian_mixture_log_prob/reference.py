"""`gaussian_mixture_log_prob` in plain PyTorch: the oracle, the fallback and the baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_TWO_PI = math.log(2 * math.pi)


def gaussian_mixture_log_prob(
    z: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor
) -> Tensor:
    """Compare every row with every component, over a (B, K, D) tensor."""
    # Densities of rows in low precision differ by less than its last bits.
    dtype = torch.promote_types(z.dtype, torch.float32)
    z, means, log_vars, log_weights = (
        value.to(dtype) for value in (z, means, log_vars, log_weights)
    )

    log_vars = log_vars.expand_as(means)
    constants = log_weights - 0.5 * (log_vars + _LOG_TWO_PI).sum(dim=-1)
    distances = ((z[:, None] - means).square() * (-log_vars).exp()).sum(dim=-1)
    return torch.logsumexp(constants - 0.5 * distances, dim=1)
