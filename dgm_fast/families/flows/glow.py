"""Glow: generative flow with invertible 1x1 convolutions (Kingma, Dhariwal, 2018).

Each of L scales turns 2 x 2 blocks of pixels into channels and applies K steps, each of them an
actnorm, a learned mixing of the channels and an affine coupling of their halves; then half of the
channels leaves, with a Gaussian prior that a convolution of the other half gives.

    scale:  squeeze, K x (actnorm, 1x1, coupling), prior of the half that goes, split
    last:   squeeze, K x (actnorm, 1x1, coupling), prior of all channels

Every prior is written as a map to standard normals, (z - mean) / std: so the whole model is one
invertible map to one standard normal, and the temperature of samples scales its noise.

Deviations from the paper:
- Actnorm and mixing are one pass over the pixels.
- The coupling's log-scale is bounded, 2 tanh(u / 2), instead of log sigmoid(u + 2), so that a new
  coupling is the identity and not a halving.
- The networks' hidden layers have no actnorms of their own, and the last convolution no scale.
- Class labels may enter the networks of all couplings and not only the last prior; the paper's
  classifier on top is left out.
- The last prior has a mean and a scale for each element, not each channel.
- A 28 x 28 image has two scales, an image with an odd side none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dgm_fast.families.flows.chain import Chain
from dgm_fast.families.flows.conditioners import ConvNet, ZeroConv
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.multiscale import MultiScale, Prior, Squeeze
from dgm_fast.layers import ActNorm, AffineCoupling, Invertible1x1Conv

__all__ = ["Glow", "GlowConfig"]

# exp(2) and exp(-2) are far more than one of many couplings needs.
_LOG_SCALE_BOUND = 2.0


@dataclass(frozen=True)
class GlowConfig(FlowConfig):
    """Hyperparameters of `Glow`, beside those of every flow.

    Attributes:
        scales: L; H and W must be divisible by 2^L.
        steps: K of each scale.
        hidden: channels of a coupling's network, 512 in the paper.
        plu: keep each mixing matrix by its factors, else in full.
        additive: couplings that shift alone.
        conditional_couplings: with a context, whether it enters the couplings too, or the last
            prior alone.
    """

    scales: int = 2
    steps: int = 8
    hidden: int = 128
    plu: bool = True
    additive: bool = False
    conditional_couplings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scales", "steps", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        self.check_image(self.scales)


class Glow(Flow):
    r"""Mixing of channels and affine couplings, in scales.

    Arguments, shapes, precision and errors are those of `Flow`; with `classes` the labels give the
    last prior and, through an embedding, a bias in every coupling's network.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", NeurIPS 2018.

    Example:
        >>> import torch
        >>> from dgm_fast.families import Glow, GlowConfig
        >>> model = Glow(GlowConfig((1, 8, 8), levels=17, steps=2, hidden=8))
        >>> model.sample(3, temperature=0.7).shape
        torch.Size([3, 1, 8, 8])
    """

    family: ClassVar[str] = "glow"
    config_class: ClassVar[type] = GlowConfig

    def build_transform(self) -> nn.Module:
        """Return the scales."""
        config = self.config
        C, H, W = config.event_shape
        scales, shapes = [], []
        for i in range(config.scales):
            C, H, W = 4 * C, H // 2, W // 2
            steps = [Squeeze("rows")]
            for _ in range(config.steps):
                steps += [Mixing(C, plu=config.plu, impl=self.impl), self._coupling(C)]
            is_last = i + 1 == config.scales
            steps.append(self._last_prior(C, H, W) if is_last else self._split_prior(C))
            scales.append(Chain(steps, reversible=config.reversible))
            shapes.append((C, H, W))
            C = C // 2

        return MultiScale(scales, shapes)

    def _coupling(self, C: int) -> AffineCoupling:
        config = self.config
        seen, moved = C - C // 2, C // 2
        features = config.context_features if config.conditional_couplings else 0
        parameters = moved if config.additive else 2 * moved
        net = ConvNet(seen, parameters, config.hidden, context_features=features)
        return AffineCoupling(
            net,
            kept=seen,
            additive=config.additive,
            scale_map="tanh",
            bound=_LOG_SCALE_BOUND,
            impl=self.impl,
        )

    def _last_prior(self, C: int, H: int, W: int) -> Prior:
        return Prior((C, H, W), self.config.context_features, impl=self.impl)

    def _split_prior(self, C: int) -> AffineCoupling:
        """Return the map of the half that goes to standard normals, given the half that stays."""
        return AffineCoupling(ZeroConv(C // 2, C), kept=C // 2, impl=self.impl)


class Mixing(nn.Module):
    """Actnorm and an invertible 1x1 convolution, in one pass."""

    def __init__(self, channels: int, *, plu: bool, impl: str) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels, impl=impl)
        self.conv = Invertible1x1Conv(channels, plu=plu, impl=impl)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        self.actnorm.initialize(x)
        # Under autocast the pixels, which are the data, must not lose their precision.
        with torch.autocast(x.device.type, enabled=False):
            return self.conv(x, **self._folded())

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        with torch.autocast(y.device.type, enabled=False):
            return self.conv.inverse(y, **self._folded())

    def _folded(self) -> dict[str, Tensor]:
        return {"log_scale": self.actnorm.log_scale, "shift": self.actnorm.shift}
