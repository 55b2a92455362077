"""Torch operators of `diffusion_loss` and its autograd."""

from __future__ import annotations

from torch import Tensor

from dgm_fast._core.implementation import requested
from dgm_fast.ops.diffusion_loss import reference


def run(
    impl: str,
    prediction: Tensor,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weight: Tensor | None,
    target: str,
    sample_offset: int,
    stream: int,
) -> Tensor:
    """Compute each sample's loss with the implementation chosen."""
    requested(impl)
    return reference.diffusion_loss(
        prediction, x0, noise, seed, t, alpha, sigma, weight, target, sample_offset, stream
    )
