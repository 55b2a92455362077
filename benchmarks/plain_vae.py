"""The VAE of the training-step benchmark as one writes it in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.families import VAE


class PlainVAE(VAE):
    """The same networks; noise by torch.randn, the KL and the likelihood by their formulas."""

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the mean negative ELBO of binary x, a scalar in nats."""
        mean, log_var = self.posterior(self.encoder(x, None)).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + torch.exp(log_var) - 1 - log_var).sum(1)
        logits = self.decoder(z).squeeze(-1)
        target = x.flatten(1)
        reconstruction = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (reconstruction.sum(1) + kl).mean()
