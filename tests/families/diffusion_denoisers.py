"""Networks of diffusion models whose best answer is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgm_fast.families import DDPM, DDPMConfig
from dgm_fast.families.diffusion.parametrization import convert


class GaussianDenoiser(nn.Module):
    """E[x_0 | x_t] of data N(mean, std^2), as whatever the model predicts.

    x_0 and x_t are jointly Gaussian, with covariance alpha std^2 and variances std^2 and
    alpha^2 std^2 + sigma^2. A label moves the mean by its number, the one for none by nothing.
    """

    def __init__(self, model: DDPM, mean: float, std: float) -> None:
        super().__init__()
        self.tables = model.schedule.alpha.double(), model.schedule.sigma.double()
        self.target, self.classes = model.config.target, model.classes
        self.mean, self.std = mean, std

    def x0(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = (table[t].view(-1, *[1] * (x_t.ndim - 1)) for table in self.tables)
        mean = torch.full_like(x_t, self.mean)
        if label is not None:
            moved = torch.where(label == self.classes, 0, label)
            mean = mean + moved.view(alpha.shape)

        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (table[t] for table in self.tables)
        x = x_t.double()
        return convert(self.x0(x, t, label), x, alpha, sigma, "x0", self.target).to(x_t.dtype)


class LevelDenoiser(nn.Module):
    """E[x_0 | x_t] of independent grey levels of probabilities p (K,)."""

    def __init__(self, model: DDPM, p: Tensor) -> None:
        super().__init__()
        self.tables = model.schedule.alpha.double(), model.schedule.sigma.double()
        self.target, self.log_p = model.config.target, p.double().log()
        self.grid = torch.linspace(-1, 1, len(p), dtype=torch.float64)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (table[t].view(-1, *[1] * x_t.ndim) for table in self.tables)
        x = x_t.double()
        log_p = self.log_p - (x[..., None] - alpha * self.grid) ** 2 / (2 * sigma**2)
        x0 = (log_p.softmax(-1) * self.grid).sum(-1)
        alpha, sigma = (table[t] for table in self.tables)
        return convert(x0, x, alpha, sigma, "x0", self.target).to(x_t.dtype)


class Wobble(nn.Module):
    """Some smooth function of (x_t, t, label) that mixes neighbours: no good at all, but cheap."""

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        shift = t if label is None else t + 3 * label
        shape = (-1, *[1] * (x_t.ndim - 1))
        return torch.sin(x_t + x_t.roll(1, -1) / 2 + shift.view(shape) / 5)


def gaussian_model(mean: float, std: float, shape: tuple[int, ...] = (2,), **options) -> DDPM:
    """A diffusion model of real values whose network is exact for N(mean, std^2)."""
    config = DDPMConfig(shape, levels=None, **{"timesteps": 20, "schedule": "cosine"} | options)
    model = DDPM(config, network=nn.Identity()).eval()
    model.network = GaussianDenoiser(model, mean, std)
    return model


def level_model(p: Tensor, shape: tuple[int, ...] = (3,), **options) -> DDPM:
    """A diffusion model of grey levels whose network is exact for independent levels."""
    config = DDPMConfig(shape, levels=len(p), **{"schedule": "log_snr"} | options)
    model = DDPM(config, network=nn.Identity()).eval()
    model.network = LevelDenoiser(model, p)
    return model
