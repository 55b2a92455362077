"""A masked network whose outputs for feature d depend on the features before d alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.autoregressive.degrees import even_degrees, residual_skips
from dgm_fast.layers import MaskedLinear
from dgm_fast.ops import MaskStructure
from dgm_fast.sampling import MaskedLayout, MaskedNetwork

__all__ = ["MaskedMLP"]


class MaskedMLP(nn.Module):
    r"""A ReLU network of MADE's masks: P numbers for each of D features, in their natural order.

    .. math:: \theta_d = network(x_1, \dots, x_{d-1}, c) \in \mathbb R^P

    Its last layer begins at zero, biases included.

    Arguments:
        features: D.
        parameters_per_feature: P.
        hidden: width of each hidden layer.
        context_features: width of a context on which everything may depend.
        residual: add the sums before each two hidden layers after the first to those after them.
        impl: of `ops.masked_linear`.

    Shapes:
        x (B, D) and context (B, C) -> (B, D, P).

    References:
        Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution
        Estimation", 2015.
    """

    def __init__(
        self,
        features: int,
        parameters_per_feature: int,
        hidden: Sequence[int],
        context_features: int = 0,
        residual: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.features = features
        self.skips = residual_skips(hidden, residual)
        # Degree 0 knows no feature: worth having where there is a context, or nothing else.
        low = 0 if context_features > 0 or features == 1 else 1
        with torch.device("cpu"):
            places = torch.arange(1, features + 1)
            # Sorted, of each hidden layer.
            self.degrees = [even_degrees(width, low, max(low, features - 1)) for width in hidden]
            units = [F.pad(places, (0, context_features)), *self.degrees]
            masks = [MaskStructure.from_degrees(a, b) for a, b in pairwise(units)]
            outputs = places.repeat_interleave(parameters_per_feature)
            masks.append(MaskStructure.from_degrees(units[-1], outputs, strict=True))
            self.layout = MaskedLayout(
                places, self.degrees, parameters_per_feature, context_features
            )

        # On the default device, as the parameters are.
        device = torch.empty(0).device
        self.layers = nn.ModuleList(MaskedLinear(mask.to(device), impl=impl) for mask in masks)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def levels(self, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Return what each layer takes: x beside the context, then what hidden layers hold."""
        found = [x if context is None else torch.cat([x, context.to(x.dtype)], dim=1)]
        sums: list[Tensor] = []
        for layer, skip in zip(self.layers, self.skips, strict=False):
            z = layer(found[-1])
            sums.append(z + sums[skip - 1] if skip else z)
            found.append(F.relu(sums[-1]))
        return found

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters of every feature."""
        return self.outputs(self.levels(x, context))

    def outputs(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the parameters of every feature, of `levels`."""
        return self.layers[-1](levels[-1]).unflatten(1, (self.features, -1))

    def description(self) -> MaskedNetwork:
        """Return what samplers are made from: the parameters, as they are, and the degrees."""
        weights = tuple(layer.weight for layer in self.layers)
        biases = tuple(layer.bias for layer in self.layers)
        return MaskedNetwork(self.layout, weights, biases, skips=self.skips)
