"""`gaussian_rsample_kl` in plain PyTorch, on one row a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.philox import normals


def gaussian_rsample_kl(
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None,
    prior_log_var: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    sample_offset: int,
    stream: int,
    monte_carlo: bool,
    free_bits: float,
) -> tuple[Tensor, Tensor]:
    """Compute z (B, E) and kl (B,) from rows of float32, or float64 where they are given so.

    A prior of shape (1, E) holds for every sample.
    """
    dtype, work = mean.dtype, torch.promote_types(mean.dtype, torch.float32)
    mean, log_var = mean.to(work), log_var.to(work)
    if noise is None:
        noise = normals(seed, mean.shape, sample_offset, stream, work)
    noise = noise.to(work)
    z = mean + torch.exp(0.5 * log_var) * noise

    offset, log_ratio = mean, log_var
    if prior_mean is not None and prior_log_var is not None:
        prior_log_var = prior_log_var.to(work)
        offset = (mean - prior_mean.to(work)) * torch.exp(-0.5 * prior_log_var)
        log_ratio = log_var - prior_log_var

    if monte_carlo:
        # The squares of (z - prior_mean) / prior_std and of noise, as one product of difference
        # and sum: nothing large is subtracted where the two Gaussians are close.
        growth = torch.expm1(0.5 * log_ratio)
        squares = (offset + growth * noise) * (offset + (growth + 2) * noise)
        kl = 0.5 * (squares - log_ratio)
    else:
        excess = torch.expm1(log_ratio) - log_ratio
        # It is at least 0, also after rounding; its gradient stays what it is.
        excess = excess - excess.detach().clamp(max=0)
        kl = 0.5 * (excess + offset.square())

    if free_bits > 0:
        kl = kl.clamp(min=free_bits)

    return z.to(dtype), kl.sum(dim=1)
