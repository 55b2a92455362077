"""MAF and IAF: autoregressive flows in their two directions.

A masked network gives every feature a mean and a log-scale that depend on the features before it.

- MAF (Papamakarios, Pavlakou, Murray, 2017) conditions on the data, z_d = (x_d - mu_d(x_<d))
  exp(-alpha_d(x_<d)): one pass gives a likelihood, sampling solves for x feature by feature.
- IAF (Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, 2016) conditions on the noise: one
  pass gives a sample with its density, the likelihood of given data solves for z.

Both stack several steps, the order of the features reversed in between.

Deviations from the papers:
- Actnorm, initialised from the first batch, stands in for MAF's batch normalisation.
- IAF has MAF's affine form and not its gated one, s z + (1 - s) m; as a posterior it has no
  encoder here, only the context.
- Log-scales are bounded by a tanh.
- `residual` makes the masked networks residual, as later work has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dgm_fast.families.autoregressive.degrees import residual_skips
from dgm_fast.families.flows.chain import Chain, Inverse
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.masked_autoregressive import AffineAutoregressive, Flip
from dgm_fast.families.flows.nice import Reshape
from dgm_fast.layers import ActNorm

__all__ = ["IAF", "MAF", "IAFConfig", "MAFConfig"]


@dataclass(frozen=True)
class MAFConfig(FlowConfig):
    """Hyperparameters of `MAF` and `IAF`, beside those of every flow.

    Attributes:
        steps: number of autoregressive steps.
        hidden: width of each hidden layer of a step's masked network.
        residual: add the sums before each two hidden layers after the first to those after them;
            layers at odd places are then of one width.
        bound: of the log-scale of a step.
    """

    steps: int = 5
    hidden: tuple[int, ...] = (512, 512)
    residual: bool = False
    bound: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(map(int, self.hidden)))
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must hold positive widths; got {self.hidden}")
        residual_skips(self.hidden, self.residual)
        if not self.bound > 0:
            raise ValueError(f"bound must be positive; got {self.bound}")


@dataclass(frozen=True)
class IAFConfig(MAFConfig):
    """Hyperparameters of `IAF`: those of `MAFConfig`."""


class MAF(Flow):
    r"""Autoregressive steps on the data: a fast density.

    .. math:: z_d = (x_d - \mu_d(x_{<d}))\, e^{-\alpha_d(x_{<d})}

    a step; arguments, shapes, precision and errors are those of `Flow`; images are taken as
    vectors, pixel by pixel.

    References:
        Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017.

    Example:
        >>> import torch
        >>> from dgm_fast.families import MAF, MAFConfig
        >>> model = MAF(MAFConfig(event_shape=(6,), hidden=(32,)))
        >>> model.log_prob(torch.randn(10, 6)).shape
        torch.Size([10])
    """

    family: ClassVar[str] = "maf"
    config_class: ClassVar[type] = MAFConfig

    def build_transform(self) -> nn.Module:
        """Return the steps."""
        config = self.config
        (D,) = flat = (math.prod(config.event_shape),)
        steps: list[nn.Module] = []
        for _ in range(config.steps):
            steps += [ActNorm(D, impl=self.impl), self.build_step(D), Flip()]

        chain = Chain(steps, reversible=config.reversible)
        return Chain([Reshape(config.event_shape, flat), chain, Reshape(flat, config.event_shape)])

    def build_step(self, features: int) -> nn.Module:
        """Return an autoregressive step that standardizes each feature given those before it."""
        config = self.config
        return AffineAutoregressive(
            features,
            config.hidden,
            config.context_features,
            residual=config.residual,
            bound=config.bound,
            impl=self.impl,
        )


class IAF(MAF):
    r"""Autoregressive steps on the noise: fast samples.

    .. math:: x_d = e^{\alpha_d(z_{<d})}\, z_d + \mu_d(z_{<d})

    a step; `sample` and `inverse` take one pass, `log_prob` and `forward` solve for z as
    `MaskedAutoregressive` describes, with its implicit gradient. Arguments, shapes, precision and
    errors are those of `Flow`.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improved Variational Inference with
        Inverse Autoregressive Flow", 2016.

    Example:
        >>> from dgm_fast.families import IAF, IAFConfig
        >>> model = IAF(IAFConfig(event_shape=(6,), hidden=(32,)))
        >>> model.sample(10).shape
        torch.Size([10, 6])
    """

    family: ClassVar[str] = "iaf"
    config_class: ClassVar[type] = IAFConfig

    def build_step(self, features: int) -> nn.Module:
        """Return the inverse of a step that scales and shifts noise given the noise before it."""
        config = self.config
        step = AffineAutoregressive(
            features,
            config.hidden,
            config.context_features,
            residual=config.residual,
            standardize=False,
            bound=config.bound,
            impl=self.impl,
        )
        return Inverse(step)
