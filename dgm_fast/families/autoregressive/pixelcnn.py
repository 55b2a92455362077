"""PixelCNN: masked convolutions as a density of images (van den Oord et al., 2016a).

An image is drawn pixel by pixel in raster order; a stack of convolutions gives the distributions of
all its pixels in one pass, because their kernels see only pixels before their own. The first layer
is 7 x 7 of type A, which leaves out the pixel itself; then come residual blocks that halve the
channels, convolve 3 x 3 with type B, and double them again; then two layers over single pixels, and
the output. Red, green and blue of a pixel come one after another: at its own place the channels of
every layer are in three groups, of which each sees those before it.

The kernels' shape leaves a blind spot: of the pixels above, those far to the right are never seen,
however many layers there are. `GatedPixelCNN` has none.

Deviations from the paper:
- Outputs: a Bernoulli for binary images as there; 256 logits a channel; and PixelCNN++'s mixture
  of discretized logistics, which orders the channels of a pixel by itself.
- Dropout in the residual blocks, off by default.
- Values enter scaled to [-1, 1], so that a 0 is not what lies beyond the image.

Sizes in the paper: for CIFAR-10 128 features and 15 layers.

References: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", ICML 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.autoregressive.convolutional_pixel_model import (
    ConvolutionalPixelModel,
    pointwise,
)
from dgm_fast.families.autoregressive.pixel_model import PixelConfig
from dgm_fast.families.layout import keep_channels_last
from dgm_fast.layers import MaskedConv2d
from dgm_fast.sampling.pixelcnn import PixelNetwork, Value

__all__ = ["PixelCNN", "PixelCNNConfig"]


@dataclass(frozen=True)
class PixelCNNConfig(PixelConfig):
    """Hyperparameters of `PixelCNN`, besides those of `PixelConfig`.

    Attributes:
        channels: 2h, between the residual blocks; h inside them.
        blocks: residual blocks.
        first_kernel: side of the first layer's kernel.
        kernel: side of the blocks' kernels.
        head_channels: of the two layers over single pixels before the output.
    """

    channels: int = 64
    blocks: int = 7
    first_kernel: int = 7
    kernel: int = 3
    head_channels: int = 64

    _lowest: ClassVar[dict[str, int]] = PixelConfig._lowest | {
        "channels": 2,
        "blocks": 0,
        "first_kernel": 3,
        "kernel": 1,
        "head_channels": 1,
    }
    _odd: ClassVar[tuple[str, ...]] = ("first_kernel", "kernel")

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = self.make_output().ordered_channels
        for name, unit in (("channels", 2 * groups), ("head_channels", groups)):
            if getattr(self, name) % unit:
                raise ValueError(
                    f"{name} must be a multiple of {unit} for {groups} ordered channels; "
                    f"got {getattr(self, name)}"
                )


class ResidualBlock(nn.Module):
    """ReLU and convolution three times, 1 x 1, k x k, 1 x 1, beside a way past them."""

    def __init__(self, channels: int, kernel: int, groups: int, dropout: float, impl: str) -> None:
        super().__init__()
        half = channels // 2
        self.narrow = pointwise(channels, half, groups, impl)
        self.convolve = MaskedConv2d(half, half, kernel, "B", groups, impl=impl)
        self.dropout = nn.Dropout(dropout)
        self.widen = pointwise(half, channels, groups, impl)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H, W) from the same."""
        h = self.narrow(F.relu(x))
        h = self.convolve(F.relu(h))
        return x + self.widen(self.dropout(F.relu(h)))

    def describe(self, net: PixelNetwork, x: list[Value]) -> list[Value]:
        """Add the block's steps to a network, outside of training."""
        h = net.masked(net.maps("relu", x), self.narrow)
        h = net.masked(net.maps("relu", h), self.convolve)
        return net.masked(net.maps("relu", h), self.widen, add=x)


class PixelCNN(ConvolutionalPixelModel):
    r"""A density of images by masked convolutions, with the paper's residual blocks.

    .. math:: \log p(x) = \sum_{i=1}^{H W} \sum_{c=1}^{C}
              \log p(x_{ic} \mid x_{<i}, x_{i,1}, \dots, x_{i,c-1})

    Of what it depends on, what it takes and what it raises, `PixelModel` tells.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", ICML 2016,
        sections 3.4 and 3.5, figure 2 and table 1.

    Example:
        >>> import torch
        >>> from dgm_fast.families import PixelCNN, PixelCNNConfig
        >>> model = PixelCNN(PixelCNNConfig((5, 6), channels=8, blocks=1)).eval()
        >>> top = torch.zeros(5, 6, dtype=torch.bool)
        >>> top[:2] = True
        >>> x = model.sample(3, given=torch.ones(5, 6), given_mask=top)
        >>> bool(x[:, top].all()), model.log_prob(x).shape
        (True, torch.Size([3]))
    """

    family: ClassVar[str] = "pixelcnn"
    config_class: ClassVar[type] = PixelCNNConfig

    def _build(self, config: PixelCNNConfig, impl: str) -> None:
        groups, width = self.output.ordered_channels, config.head_channels
        self.first = MaskedConv2d(
            config.image_shape[0], config.channels, config.first_kernel, "A", groups, impl=impl
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(config.channels, config.kernel, groups, config.dropout, impl)
            for _ in range(config.blocks)
        )
        widths = [config.channels, width, width, self.output.parameters]
        self.head = nn.ModuleList(pointwise(a, b, groups, impl) for a, b in pairwise(widths))
        keep_channels_last(self)

    def _network(self, image: Tensor, label: Tensor | None) -> Tensor:
        h = self.first(image)  # (B, 2h, H, W)
        for block in self.blocks:
            h = block(h)
        for layer in self.head:
            h = layer(F.relu(h))
        return h

    def _describe(self) -> PixelNetwork:
        net = PixelNetwork(self.config.image_shape[1:], self.output)
        h = net.masked(net.image, self.first)
        for block in self.blocks:
            h = block.describe(net, h)
        for layer in self.head:
            h = net.masked(net.maps("relu", h), layer)
        return net.draw(h)
