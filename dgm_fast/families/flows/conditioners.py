"""Networks that say how a coupling transforms one part given the other.

Their last layers begin at zero, so that a new coupling is the identity. None of them mixes the
samples of a batch or is random, as reversible training asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.layout import keep_channels_last

__all__ = ["MLP", "ConvNet", "ResidualConvNet", "ZeroConv"]


class MLP(nn.Module):
    """A ReLU network of vectors; a context is laid beside the input, or ignored without its width.

    Shapes:
        x (B, *E) and context (B, C), of in_features numbers together with `context_features`
        -> (B, out_features).
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int], context_features: int = 0
    ) -> None:
        super().__init__()
        self.context_features = context_features
        widths = [in_features + context_features, *hidden, out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        _zero(self.layers[-1])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters."""
        h = x.flatten(1)
        if self.context_features:
            h = torch.cat([h, context.to(h.dtype)], dim=1)
        for layer in self.layers[:-1]:
            h = F.relu(layer(h))
        return self.layers[-1](h)


class _ImageNet(nn.Module):
    """What the convolutional conditioners share: their first and last layers, and the context.

    A context is either a vector a sample, (B, C), added to the first hidden layer at every pixel,
    or an image of the input's size, (B, C, H, W), laid beside the input. Without
    `context_features` a context is not looked at.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, context_features: int, image: bool
    ) -> None:
        super().__init__()
        self.image_channels = context_features if image else 0
        self.first = nn.Conv2d(in_channels + self.image_channels, hidden, 3, padding=1)
        self.last = _zero(nn.Conv2d(hidden, out_channels, 3, padding=1))
        features = context_features - self.image_channels
        self.context = nn.Linear(features, hidden, bias=False) if features else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (B, out_channels, H, W)."""
        if self.image_channels:
            x = torch.cat([x, context.to(x.dtype)], dim=1)

        # oneDNN and cuDNN convolve with the channels last, up to three times as fast on a CPU.
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        if self.context is not None:
            h = h + self.context(context.to(x.dtype))[:, :, None, None]
        # The op that takes the parameters reads planes.
        return self.last(F.relu(self.hidden(h))).contiguous()

    def hidden(self, h: Tensor) -> Tensor:
        """Apply the layers in between to what the first convolution puts out."""
        raise NotImplementedError


class ConvNet(_ImageNet):
    """Three convolutions as in Glow: 3 x 3, 1 x 1, 3 x 3, with ReLUs between."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        *,
        context_features: int = 0,
        context_image: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, hidden, context_features, context_image)
        self.middle = nn.Conv2d(hidden, hidden, 1)
        keep_channels_last(self)

    def hidden(self, h: Tensor) -> Tensor:
        """Mix the channels of each pixel."""
        return self.middle(F.relu(h))


class ResidualConvNet(_ImageNet):
    """Residual blocks of 3 x 3 and 1 x 1 convolutions, as in RealNVP, without normalisation.

    Each block adds to its input what it makes of it, nothing at first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        blocks: int,
        *,
        context_features: int = 0,
        context_image: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, hidden, context_features, context_image)
        self.blocks = nn.ModuleList(_ResidualBlock(hidden) for _ in range(blocks))
        keep_channels_last(self)

    def hidden(self, h: Tensor) -> Tensor:
        """Apply the blocks."""
        for block in self.blocks:
            h = h + block(h)
        return h


class ZeroConv(nn.Conv2d):
    """One 3 x 3 convolution, zero at first; it does not look at a context."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        _zero(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (B, out_channels, H, W)."""
        return super().forward(x).contiguous()


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mixing = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        return self.mixing(F.relu(self.spatial(F.relu(h))))


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
