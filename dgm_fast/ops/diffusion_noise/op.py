"""Torch operators of `diffusion_noise` and its autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import requested
from dgm_fast.ops.diffusion_noise import reference


def run(
    impl: str,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    sample_offset: int,
    stream: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Compute x_t and the target with the implementation chosen."""
    requested(impl)
    return reference.diffusion_noise(
        x0, noise, seed, t, alpha, sigma, target, sample_offset, stream, dtype
    )
