"""The cheapest plain PyTorch that trains a MADE: the rival of its training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families import MADE


class PremaskedMADE(nn.Module):
    """The plain network that equals a MADE while its weights are masked, and trains like it.

    Arguments:
        model: with Bernoulli outputs, ReLU, one set of masks and nothing but hidden layers.
    """

    def __init__(self, model: MADE) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._masks: list[tuple[Tensor, Tensor]] = []
        for layer in model.layers:
            device = layer.weight.device
            plain = nn.Linear(layer.in_features, layer.out_features, device=device)
            plain.load_state_dict(layer.state_dict())
            self._masks.append((plain.weight, layer.mask.mask.float()))
            layers += [plain, nn.ReLU()]

        self.network = nn.Sequential(*layers[:-1])
        self.mask_weights()

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of `x` in nats."""
        return F.binary_cross_entropy_with_logits(self.network(x), x, reduction="sum") / len(x)

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Mask the weights again; to be called after each update."""
        for weight, mask in self._masks:
            weight.mul_(mask)
