"""Torch operators of `ddpm_step` and `ddim_step`, and their autograd."""

from __future__ import annotations

from torch import Tensor

from dgm_fast._core.implementation import requested
from dgm_fast.ops.diffusion_step import reference


def run(
    impl: str,
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    s: Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    *how: str | float | bool,
) -> Tensor:
    """Compute x_s with the implementation chosen."""
    requested(impl)
    arguments = (x_t, prediction, unconditional, noise, seed, t, s, alpha, sigma)
    return reference.diffusion_step(*arguments, *how)
