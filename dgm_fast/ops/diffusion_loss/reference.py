"""`diffusion_loss` in plain PyTorch: the oracle and the fallback."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.philox import normals
from dgm_fast._core.schedule import as_values, look_up, per_sample


def diffusion_loss(
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
    """Compute each sample's weighted mean squared error."""
    work = torch.float64 if torch.float64 in (prediction.dtype, x0.dtype) else torch.float32
    if noise is None and target != "x0":
        noise = normals(seed, x0.shape, sample_offset, stream, work)

    if target == "noise":
        wanted = noise.to(work)
    elif target == "x0":
        wanted = as_values(x0, work)
    else:
        scale, spread = (per_sample(look_up(table, t), x0, work) for table in (alpha, sigma))
        wanted = scale * noise.to(work) - spread * as_values(x0, work)

    error = (prediction.to(work) - wanted).reshape(x0.shape[0], math.prod(x0.shape[1:]))
    mean = error.square().mean(1)
    return mean if weight is None else look_up(weight, t).to(work) * mean
