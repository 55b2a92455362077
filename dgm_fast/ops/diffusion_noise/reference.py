"""`diffusion_noise` in plain PyTorch: the oracle and the fallback."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.philox import normals
from dgm_fast._core.schedule import as_values, look_up, per_sample


def diffusion_noise(
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
    """Compute x_t and the target; `target` "" asks for x_t alone and gives an empty one."""
    work = torch.float64 if dtype is torch.float64 else torch.float32
    if noise is None:
        noise = normals(seed, x0.shape, sample_offset, stream, work)

    value, noise = as_values(x0, work), noise.to(work)
    scale, spread = (per_sample(look_up(table, t), x0, work) for table in (alpha, sigma))
    x_t = scale * value + spread * noise
    targets = {"noise": noise, "x0": value, "": value.new_empty(0)}
    wanted = scale * noise - spread * value if target == "velocity" else targets[target]
    return x_t.to(dtype), wanted.to(dtype)
