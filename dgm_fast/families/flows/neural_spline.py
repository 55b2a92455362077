"""Neural spline flows (Durkan, Bekasov, Murray, Papamakarios, 2019).

Each feature is bent by a monotonic rational-quadratic spline whose bins and slopes a network makes
of other features: of one half of them in a coupling, RQ-NSF (C), or of all before it,
RQ-NSF (AR). Between the steps an invertible matrix mixes the features.

Deviations from the paper:
- Actnorm, initialised from the first batch, standardizes the features before every mixing.
- The matrix is P L U with a fixed permutation, as in the paper, drawn as a rotation.
- The conditioners are plain ReLU networks, residual ones only where autoregressive and asked for,
  and the parameters of widths and heights are not divided by the square root of a network's width;
  steps begin as the identity.
- Images are taken as vectors; the paper's image model is a Glow with spline couplings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from dgm_fast.families.autoregressive.degrees import residual_skips
from dgm_fast.families.flows.chain import Chain
from dgm_fast.families.flows.conditioners import MLP
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.linear import LinearStep
from dgm_fast.families.flows.masked_autoregressive import SplineAutoregressive
from dgm_fast.families.flows.nice import Reshape
from dgm_fast.layers import RationalQuadraticCoupling, SplineShape

__all__ = ["NeuralSplineFlow", "NeuralSplineFlowConfig"]


@dataclass(frozen=True)
class NeuralSplineFlowConfig(FlowConfig):
    """Hyperparameters of `NeuralSplineFlow`, beside those of every flow.

    Attributes:
        conditioning: `coupling`, as fast to sample as to evaluate, or `autoregressive`.
        steps: number of mixings, each with its splines.
        hidden: width of each hidden layer of a step's network.
        residual: of autoregressive conditioning, add the sums before each two hidden layers after
            the first to those after them; layers at odd places are then of one width.
        bins: K, of a spline.
        bound: splines bend [-bound, bound] and leave the rest as it is.
    """

    conditioning: Literal["coupling", "autoregressive"] = "coupling"
    steps: int = 5
    hidden: tuple[int, ...] = (256, 256)
    residual: bool = False
    bins: int = 8
    bound: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(map(int, self.hidden)))
        SplineShape(self.bins, self.bound)

        if self.conditioning not in ("coupling", "autoregressive"):
            raise ValueError(
                f"conditioning must be 'coupling' or 'autoregressive'; got {self.conditioning!r}"
            )
        if self.conditioning == "coupling" and math.prod(self.event_shape) < 2:
            raise ValueError(f"event_shape must have two features; got {self.event_shape}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must hold positive widths; got {self.hidden}")
        residual_skips(self.hidden, self.residual)
        if self.residual and self.conditioning == "coupling":
            raise ValueError("residual needs conditioning='autoregressive'; got 'coupling'")


class NeuralSplineFlow(Flow):
    r"""Features mixed by matrices and bent by splines, in turn.

    .. math:: h \leftarrow \mathrm{spline}(W h;\; network(\text{the other features}))

    Arguments, shapes, precision and errors are those of `Flow`.

    References:
        Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows", NeurIPS 2019.

    Example:
        >>> import torch
        >>> from dgm_fast.families import NeuralSplineFlow, NeuralSplineFlowConfig
        >>> model = NeuralSplineFlow(NeuralSplineFlowConfig(event_shape=(6,), hidden=(32,)))
        >>> model.log_prob(torch.randn(10, 6)).shape
        torch.Size([10])
    """

    family: ClassVar[str] = "nsf"
    config_class: ClassVar[type] = NeuralSplineFlowConfig

    def build_transform(self) -> nn.Module:
        """Return mixings and splines in turn, and a last mixing."""
        config = self.config
        (D,) = flat = (math.prod(config.event_shape),)
        build = self._coupling if config.conditioning == "coupling" else self._autoregressive

        steps: list[nn.Module] = []
        for i in range(config.steps):
            steps += [LinearStep(D, impl=self.impl), build(D, i)]

        steps.append(LinearStep(D, impl=self.impl))
        chain = Chain(steps, reversible=config.reversible)
        return Chain([Reshape(config.event_shape, flat), chain, Reshape(flat, config.event_shape)])

    def _coupling(self, features: int, i: int) -> nn.Module:
        """Return coupling i, which keeps the first or the last half of the features."""
        config = self.config
        spline = SplineShape(config.bins, config.bound)
        kept, part = ((features + 1) // 2, "last") if i % 2 == 0 else (features // 2, "first")
        splines = features - kept
        width = spline.parameters * splines
        network = MLP(kept, width, config.hidden, config.context_features)
        spline.make_identity(network.layers[-1].bias, splines)
        return RationalQuadraticCoupling(
            network, kept=kept, spline=spline, part=part, impl=self.impl
        )

    def _autoregressive(self, features: int, i: int) -> nn.Module:
        config = self.config
        return SplineAutoregressive(
            features,
            config.hidden,
            SplineShape(config.bins, config.bound),
            config.context_features,
            residual=config.residual,
            impl=self.impl,
        )
