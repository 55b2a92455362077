"""NICE: Non-linear Independent Components Estimation (Dinh, Krueger, Bengio, 2014).

Half of the features is shifted by a network of the other half, which is undone by subtracting what
the same network gives; nothing is scaled, so the Jacobian's determinant is 1. After four such
additive couplings, halves taking turns, one learned scale a feature says which components matter.
The base is logistic or Gaussian.

Deviations from the paper:
- The features are the paper's odd and even ones for the first coupling too, but laid side by side
  once, at the start, so that couplings take contiguous halves.
- The scales are an `ActNorm` of the features: the first batch initialises them, together with a
  shift, so that training does not begin by learning which pixels are always empty.
- Integer data are scaled to [-1, 1], not [0, 1]; they may be whitened by the caller, not here.
- A context may condition the couplings' networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dgm_fast.families.flows.chain import Chain, no_change
from dgm_fast.families.flows.conditioners import MLP
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.layers import ActNorm, AffineCoupling

__all__ = ["NICE", "NICEConfig"]


@dataclass(frozen=True)
class NICEConfig(FlowConfig):
    """Hyperparameters of `NICE`, beside those of every flow.

    Attributes:
        base: `logistic` as in most of the paper's experiments, or `normal`.
        couplings: number of couplings; three at least let every feature act on every other.
        hidden: width of each hidden layer of a coupling's network.
    """

    base: Literal["normal", "logistic"] = "logistic"
    couplings: int = 4
    hidden: tuple[int, ...] = (1000, 1000, 1000, 1000, 1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(map(int, self.hidden)))

        if math.prod(self.event_shape) < 2:
            raise ValueError(f"event_shape must have two features; got {self.event_shape}")
        if self.couplings < 1:
            raise ValueError(f"couplings must be at least 1; got {self.couplings}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must hold positive widths; got {self.hidden}")


class NICE(Flow):
    r"""Additive couplings, then one scale and one shift a feature.

    .. math:: z = e^{s} \odot (h_K + t), \quad h_k = (a,\; b + m_k(a)) \text{ of } h_{k-1} = (a, b),
              \text{ the halves taking turns}

    so that :math:`\log|\det dz/dx| = \sum_d s_d` for every x. Arguments, shapes, precision and
    errors are those of `Flow`; images are taken as vectors.

    References:
        Dinh, Krueger, Bengio, "NICE: Non-linear Independent Components Estimation", 2014.

    Example:
        >>> import torch
        >>> from dgm_fast.families import NICE, NICEConfig
        >>> model = NICE(NICEConfig(event_shape=(6,), hidden=(32, 32)))
        >>> z, log_det = model(torch.randn(10, 6))
        >>> model.sample(5).shape
        torch.Size([5, 6])
    """

    family: ClassVar[str] = "nice"
    config_class: ClassVar[type] = NICEConfig

    def build_transform(self) -> nn.Module:
        """Return halves, couplings and scales."""
        config = self.config
        D = math.prod(config.event_shape)
        steps = [EvenOdd(config.event_shape)]
        for i in range(config.couplings):
            kept, part = ((D + 1) // 2, "last") if i % 2 == 0 else (D // 2, "first")
            net = MLP(kept, D - kept, config.hidden, config.context_features)
            steps.append(AffineCoupling(net, kept=kept, part=part, additive=True, impl=self.impl))

        chain = Chain([*steps, ActNorm(D, impl=self.impl)], reversible=config.reversible)
        return Chain([chain, Reshape((D,), config.event_shape)])


class EvenOdd(nn.Module):
    """Flatten events and lay their features at even places before those at odd ones."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = event_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (B, D) and zeros."""
        flat = x.flatten(1)
        return torch.cat([flat[:, ::2], flat[:, 1::2]], dim=1), no_change(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return events and zeros."""
        x = torch.empty_like(y)
        x[:, ::2], x[:, 1::2] = y.tensor_split([(y.shape[1] + 1) // 2], dim=1)
        return x.view(-1, *self.event_shape), no_change(y)


class Reshape(nn.Module):
    """Give events another shape."""

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.before = before
        self.after = after

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return events of the shape `after`, and zeros."""
        return x.reshape(-1, *self.after), no_change(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return events of the shape `before`, and zeros."""
        return y.reshape(-1, *self.before), no_change(y)
