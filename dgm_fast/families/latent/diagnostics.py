"""Is the latent of a VAE used? Active units, KL by dimension and mutual information."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dgm_fast._core.random import draw_seed
from dgm_fast.ops import gaussian_mixture_log_prob, philox_normal

if TYPE_CHECKING:
    from dgm_fast.families.latent.vae import VAE

__all__ = ["LatentDiagnostics", "kl_per_dimension", "latent_diagnostics"]

ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class LatentDiagnostics:
    """Figures of N rows of data, of the posterior's Gaussian: of what a flow posterior bends.

    Attributes:
        mean_variance: variance over the data of the posterior's mean, (L,), float64.
        kl_nats: mean over the data of each dimension's KL to N(0, 1), (L,), float64.
        mutual_information_nats: an estimate of the information between x and z under q; at most
            log N, which more rows raise.
    """

    mean_variance: Tensor
    kl_nats: Tensor
    mutual_information_nats: float

    @property
    def active(self) -> Tensor:
        """Which dimensions are active: those whose `mean_variance` exceeds 0.01, (L,), bool."""
        return self.mean_variance > ACTIVE_VARIANCE

    def summary(self) -> dict[str, float]:
        """Return the figures that fit in a line each."""
        return {
            "active_units": float(self.active.sum()),
            "latent_units": float(len(self.active)),
            "kl_to_standard_normal_nats": float(self.kl_nats.sum()),
            "largest_kl_of_a_unit_nats": float(self.kl_nats.max()),
            "mutual_information_nats": self.mutual_information_nats,
        }


@torch.no_grad()
def latent_diagnostics(
    model: VAE,
    x: Tensor,
    context: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> LatentDiagnostics:
    r"""Measure how much of the latent a VAE uses on rows of data.

    A dimension of z is active where :math:`\mathrm{Var}_x(E_{q(z|x)}[z]) > 0.01`; a collapsed one
    has a KL near 0 as well. The mutual information is

    .. math:: \frac{1}{N} \sum_n \log q(z_n \mid x_n) - \log q(z_n), \quad
              q(z) = \frac{1}{N} \sum_m q(z \mid x_m), \quad z_n \sim q(z \mid x_n)

    Shapes:
        x (N, *event_shape), N at least 2; the information costs N^2 densities, none of them kept.

    Precision:
        The densities are those of `ops.gaussian_mixture_log_prob`, all else is float64.

    Raises:
        ValueError: fewer than two rows.

    References:
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section 5.2.
        Hoffman, Johnson, "ELBO surgery", 2016, eq. 8.
    """
    if len(x) < 2:
        raise ValueError(f"x must have at least two rows to vary between; got {len(x)}")

    mean, log_var = model.encode(x, context)
    seed = draw_seed(x.device, generator)
    noise = philox_normal(mean.shape, seed=seed, dtype=torch.float32).to(mean.dtype)
    z = mean + (0.5 * log_var).exp() * noise
    own = -0.5 * (noise.square() + log_var + math.log(2 * math.pi)).double().sum(1)
    weights = log_var.new_full((len(x),), -math.log(len(x)))
    information = own - gaussian_mixture_log_prob(z, mean, log_var, weights).double()

    return LatentDiagnostics(
        mean_variance=mean.double().var(0),
        kl_nats=kl_per_dimension(mean.double(), log_var.double()).mean(0),
        mutual_information_nats=float(information.mean()),
    )


def kl_per_dimension(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(0, 1)) of every element, in nats."""
    return 0.5 * (mean.square() + torch.expm1(log_var) - log_var)
