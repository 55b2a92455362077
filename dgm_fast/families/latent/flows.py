"""Couplings that bend the Gaussians of a VAE's latent."""

from __future__ import annotations

from torch import Tensor, nn

from dgm_fast.families.flows.chain import Chain
from dgm_fast.families.flows.conditioners import MLP
from dgm_fast.families.latent.config import VAEConfig
from dgm_fast.layers import AffineCoupling

__all__ = ["LatentFlows"]

# A step scales by e^-2 to e^2 at most: a wild step early in training cannot overflow the latent.
_LOG_SCALE_BOUND = 2.0


class LatentFlows(nn.Module):
    r"""The flows of a VAE's posterior and prior, each of which may be absent.

    The posterior's flow f gives :math:`z = f(z_0)`, given the encoder's features, and the prior's
    flow g says :math:`p(z) = N(g(z)) |\det g'|`, so

    .. math:: \log\frac{q(z)}{p(z)} = \log\frac{q_0(z_0)}{N(z_0)} - \log|\det f'|
              - \log|\det g'| + \tfrac12 (|g(z)|^2 - |z_0|^2)

    Both are affine couplings whose halves take turns, and the identity at first.

    Arguments:
        config: hyperparameters of the VAE.
        features: width of the encoder's features.
        impl: of `ops.affine_coupling`.

    References:
        Rezende, Mohamed, "Variational Inference with Normalizing Flows", ICML 2015.
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017.
    """

    def __init__(self, config: VAEConfig, features: int, impl: str) -> None:
        super().__init__()
        bent = config.posterior == "flow"
        self.posterior = _couplings(config, features, impl) if bent else None
        self.prior = _couplings(config, 0, impl) if config.prior == "flow" else None

    def forward(self, z0: Tensor, kl: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, L) and its KL (B,), given those of the Gaussian to N(0, I)."""
        if self.posterior is None and self.prior is None:
            return z0, kl

        z = u = z0
        if self.posterior is not None:
            z, log_det = self.posterior(z0, features)
            u, kl = z, kl - log_det
        if self.prior is not None:
            u, log_det = self.prior(z)
            kl = kl - log_det

        # The difference of squares as a product: flows near the identity lose nothing by it.
        u, z0 = u.to(kl.dtype), z0.to(kl.dtype)
        return z, kl + 0.5 * ((u - z0) * (u + z0)).sum(1)

    def bend(self, z0: Tensor, features: Tensor) -> Tensor:
        """Return the z of the posterior that a z0 of its Gaussian becomes."""
        return z0 if self.posterior is None else self.posterior(z0, features)[0]

    def draw(self, noise: Tensor) -> Tensor:
        """Return the z of the prior that standard normals stand for."""
        return noise if self.prior is None else self.prior.inverse(noise)[0]


def _couplings(config: VAEConfig, context_features: int, impl: str) -> Chain:
    L = config.latent_features
    steps = []
    for step in range(config.flow_steps):
        kept, part = ((L + 1) // 2, "last") if step % 2 == 0 else (L // 2, "first")
        net = MLP(kept, 2 * (L - kept), config.flow_hidden, context_features)
        bounded = {"scale_map": "tanh", "bound": _LOG_SCALE_BOUND}
        steps.append(AffineCoupling(net, kept=kept, part=part, impl=impl, **bounded))

    return Chain(steps)
