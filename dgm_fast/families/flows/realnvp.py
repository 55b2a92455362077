"""RealNVP: density estimation using real-valued non-volume preserving maps (Dinh et al., 2017).

A coupling scales and shifts one part of x by what a network makes of the other. On images the parts
are in turn the two colours of a checkerboard and, once 2 x 2 blocks of pixels have become channels,
two halves of the channels; after every scale but the last, half of the channels leaves.
On vectors the parts are the first and the last half of the features.

    scale:       3 checkerboard couplings, squeeze, 3 channel couplings, half of the channels goes
    last scale:  4 checkerboard couplings

Deviations from the paper:
- Actnorm, a scale and a shift a channel initialised from the first batch, comes before every
  coupling in place of the paper's batch normalisation after it: the map is the same in training and
  evaluation and has an exact inverse. The residual networks have no normalisation.
- The squeeze gives the rows of a block, not the paper's order of its channels.
- `squeezed=True` computes checkerboard couplings on 2 x 2 blocks as channels: the parts are the
  same, the networks see four times fewer places, each with more of the image in view, and none of
  their work is on masked pixels. It is the better use of a small budget of arithmetic.
- Vectors and a context are additions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dgm_fast.families.flows.chain import Chain, Inverse
from dgm_fast.families.flows.conditioners import MLP, ResidualConvNet
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.multiscale import MultiScale, Squeeze
from dgm_fast.layers import ActNorm, AffineCoupling

__all__ = ["RealNVP", "RealNVPConfig"]


@dataclass(frozen=True)
class RealNVPConfig(FlowConfig):
    """Hyperparameters of `RealNVP`, beside those of every flow.

    Attributes:
        logit_alpha: 0.05 as in the paper; 1e-6 is usual for MNIST.
        scales: number of scales of an image; 28 x 28 has at most 3, 8 x 8 at most 4.
        couplings: of each kind in a scale; the last scale has one more. Of vectors, all of them.
        hidden: channels, or width of the two layers, of a coupling's network.
        blocks: residual blocks of a coupling's network; images only.
        squeezed: compute checkerboard couplings on 2 x 2 blocks of pixels as channels.
    """

    scales: int = 2
    couplings: int = 3
    hidden: int = 64
    blocks: int = 4
    squeezed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scales", "couplings", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.blocks < 0:
            raise ValueError(f"blocks must not be negative; got {self.blocks}")

        if len(self.event_shape) != 1:
            # The last scale does not halve the image, unless its couplings are squeezed.
            self.check_image(self.scales if self.squeezed else self.scales - 1)
        elif self.event_shape[0] < 2:
            raise ValueError(f"event_shape must be (D,) with D > 1; got {self.event_shape}")


class RealNVP(Flow):
    r"""Affine couplings in checkerboards, channels and scales.

    .. math:: y_{kept} = x_{kept}, \quad y_{rest} = x_{rest} \odot e^{s} + t, \quad
              s = w \odot \tanh(u), \quad (u, t) = network(x_{kept})

    with a learned factor w for each channel. Arguments, shapes, precision and errors are those of
    `Flow`.

    References:
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017.

    Example:
        >>> import torch
        >>> from dgm_fast.families import RealNVP, RealNVPConfig
        >>> model = RealNVP(RealNVPConfig(event_shape=(1, 8, 8), levels=17, hidden=8, blocks=1))
        >>> x = torch.randint(17, (5, 1, 8, 8)).float()
        >>> model.log_prob(x).shape
        torch.Size([5])
    """

    family: ClassVar[str] = "realnvp"
    config_class: ClassVar[type] = RealNVPConfig

    def build_transform(self) -> nn.Module:
        """Return the scales of an image, or couplings of halves of a vector."""
        config = self.config
        if len(config.event_shape) == 1:
            (D,) = config.event_shape
            return self._chain(step for i in range(config.couplings) for step in self._halves(i, D))

        C, H, W = config.event_shape
        scales, shapes = [], []
        for _ in range(config.scales - 1):
            steps = [*self._checkerboard(C, H, W, config.couplings), Squeeze("rows")]
            C, H, W = 4 * C, H // 2, W // 2
            steps += [step for i in range(config.couplings) for step in self._halves(i, C)]
            scales.append(self._chain(steps))
            shapes.append((C, H, W))
            C = C // 2

        scales.append(self._chain(self._checkerboard(C, H, W, config.couplings + 1)))
        return MultiScale(scales, [*shapes, (C, H, W)])

    def _chain(self, steps: Iterable[nn.Module]) -> Chain:
        return Chain(steps, reversible=self.config.reversible)

    def _checkerboard(self, C: int, H: int, W: int, couplings: int) -> list[nn.Module]:
        """Return couplings that keep one colour of the pixels and then the other."""
        if self.config.squeezed:
            squeeze = Squeeze("checkerboard")
            inner = [step for i in range(couplings) for step in self._halves(i, 4 * C)]
            return [squeeze, *inner, Inverse(squeeze)]

        colour = (torch.arange(H)[:, None] + torch.arange(W)) % 2 == 0
        steps = []
        for i in range(couplings):
            mask = colour if i % 2 == 0 else ~colour
            steps += [ActNorm(C, impl=self.impl), self._coupling(C, C, mask=mask)]
        return steps

    def _halves(self, i: int, C: int) -> list[nn.Module]:
        """Return coupling i of channels, or features, which keeps the first or the last half."""
        kept, part = ((C + 1) // 2, "last") if i % 2 == 0 else (C // 2, "first")
        return [ActNorm(C, impl=self.impl), self._coupling(kept, C - kept, kept=kept, part=part)]

    def _coupling(self, seen: int, transformed: int, **which: Any) -> AffineCoupling:
        config = self.config
        if len(config.event_shape) == 1:
            hidden = (config.hidden, config.hidden)
            net = MLP(seen, 2 * transformed, hidden, config.context_features)
        else:
            net = ResidualConvNet(
                seen,
                2 * transformed,
                config.hidden,
                config.blocks,
                context_features=config.context_features,
            )
        return AffineCoupling(net, rescaled_channels=transformed, impl=self.impl, **which)
