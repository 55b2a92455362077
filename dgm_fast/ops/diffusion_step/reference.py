"""`ddpm_step` and `ddim_step` in plain PyTorch: the oracle and the fallback."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.philox import normals
from dgm_fast._core.schedule import look_up, per_sample


def diffusion_step(
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    s: Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    eta: float,
    large: bool,
    recompute: bool,
    clip: float,
    guidance: float,
    sample_offset: int,
    stream: int,
) -> Tensor:
    """Compute x_s = a x_t + b prediction + c x0 + std z; an infinite `clip` leaves x0 alone."""
    given = [each for each in (x_t, prediction, unconditional) if each is not None]
    doubles = any(each.dtype is torch.float64 for each in given)
    work = torch.float64 if doubles else torch.float32
    x, p = x_t.to(work), prediction.to(work)
    if unconditional is not None:
        p = unconditional.to(work) + guidance * (p - unconditional.to(work))

    clips = clip < math.inf
    found = coefficients(t, s, alpha, sigma, target, eta, large, recompute, clips)
    a, b, c, u, v, std = (per_sample(each, x_t, work) for each in found)
    x_s = a * x + b * p
    if clips:
        x_s = x_s + c * (u * x + v * p).clamp(-clip, clip)
    if eta > 0:
        z = normals(seed, x_t.shape, sample_offset, stream, work) if noise is None else noise
        x_s = x_s + std * z.to(work)

    return x_s.to(x_t.dtype)


def coefficients(
    t: Tensor,
    s: Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    eta: float,
    large: bool,
    recompute: bool,
    clips: bool,
) -> tuple[Tensor, ...]:
    """Return each sample's a, b, c, u, v and std, in float64.

    A step is x_s = alpha_s x0 + direction eps + std z, with x0 = u x_t + v prediction and eps a sum
    of the same two. Unless x0 is clipped, they are added up here: x0 and eps may be much larger
    than the step they make.
    """
    # A schedule's differences cancel: in float32 a step's variance would be rounding errors.
    alpha, sigma = alpha.double(), sigma.double()
    s = t - 1 if s is None else s
    to_clean = s == -1
    alpha_t, sigma_t = look_up(alpha, t), look_up(sigma, t)
    alpha_s = torch.where(to_clean, 1.0, look_up(alpha, s))
    sigma_s = torch.where(to_clean, 0.0, look_up(sigma, s))
    # On the way to x0 no eps counts, not even where sigma_t is 0 and it cannot be known.
    divisor = torch.where(to_clean & (sigma_t == 0), 1.0, sigma_t)

    fresh = 1 - (alpha_t * sigma_s / (alpha_s * divisor)).square()
    std = eta * torch.where(to_clean, 0.0, (sigma_t if large else sigma_s) * fresh.sqrt())
    direction = sigma_s * (1 - eta**2 * fresh).sqrt()

    zero, one = torch.zeros_like(alpha_t), torch.ones_like(alpha_t)
    square = alpha_t.square() + sigma_t.square()
    u, v, eps_x, eps_p = {
        "noise": (one / alpha_t, -sigma_t / alpha_t, zero, one),
        "velocity": (alpha_t / square, -sigma_t / square, sigma_t / square, alpha_t / square),
        "x0": (zero, one, one / divisor, -alpha_t / divisor),
    }[target]

    if not clips:
        a, b, c = alpha_s * u + direction * eps_x, alpha_s * v + direction * eps_p, zero
    elif recompute:
        a, b, c = direction / divisor, zero, alpha_s - direction * alpha_t / divisor
    else:
        a, b, c = direction * eps_x, direction * eps_p, alpha_s

    return a, b, c, u, v, std
