"""Gated PixelCNN: two stacks of gated convolutions without a blind spot (van den Oord, 2016b).

PixelCNN's masked kernels never see some pixels above and to the right. Here a vertical stack sees
all rows above a pixel, by kernels cut off below their own row, and a horizontal stack the row of
the pixel up to it; in every layer the vertical stack feeds the horizontal one, and never the other
way round. Between them they see every pixel before, and instead of a ReLU each has a gate,
tanh(a) sigmoid(b), as the gates of PixelRNN's cells. A label is embedded and added inside of every
gate, which makes the density one of images given their class.

Deviations from the paper:
- The vertical stack's kernels begin above their pixel's row in the first layer and include that row
  later on, which makes the paper's shift between the stacks unnecessary.
- The first layer's kernel is 7 x 7 and the head two layers over single pixels, as in PixelCNN.
- Outputs: a Bernoulli for binary images, logits of the levels as there, and PixelCNN++'s mixture of
  discretized logistics.
- Dropout after the horizontal gates, off by default.
- Values enter scaled to [-1, 1], so that a 0 is not what lies beyond the image.

References: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional Image
Generation with PixelCNN Decoders", NIPS 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from dgm_fast.ops import gated_activation
from dgm_fast.sampling.pixelcnn import PixelNetwork, Value, conv_terms

__all__ = ["GatedPixelCNN", "GatedPixelCNNConfig"]


@dataclass(frozen=True)
class GatedPixelCNNConfig(PixelConfig):
    """Hyperparameters of `GatedPixelCNN`, besides those of `PixelConfig`.

    Attributes:
        classes: of the labels that `context` holds, 0 for none.
        channels: p, of each stack; convolutions put out 2p for the gates.
        layers: after the first.
        first_kernel: side of the first layer's kernels.
        kernel: side of the others'.
        head_channels: of the layer over single pixels before the output.
    """

    classes: int = 0
    channels: int = 64
    layers: int = 7
    first_kernel: int = 7
    kernel: int = 3
    head_channels: int = 64

    _lowest: ClassVar[dict[str, int]] = PixelConfig._lowest | {
        "classes": 0,
        "channels": 1,
        "layers": 0,
        "first_kernel": 3,
        "kernel": 3,
        "head_channels": 1,
    }
    _odd: ClassVar[tuple[str, ...]] = ("first_kernel", "kernel")

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = self.make_output().ordered_channels
        for name in ("channels", "head_channels"):
            if getattr(self, name) % groups:
                raise ValueError(
                    f"{name} must be a multiple of {groups} for {groups} ordered channels; "
                    f"got {getattr(self, name)}"
                )


class GatedLayer(nn.Module):
    """One layer of both stacks (the paper's figure 2).

    The first layer, of type A, sees neither the pixel's own place nor, in its vertical stack, its
    row; it has nothing to add its output to.
    """

    def __init__(
        self,
        channels: int,
        config: GatedPixelCNNConfig,
        mask_type: str,
        groups: int,
        impl: str,
    ) -> None:
        super().__init__()
        width, first = config.channels, mask_type == "A"
        kernel = config.first_kernel if first else config.kernel
        above = kernel // 2
        self.is_first, self.impl = first, impl
        # Rows of zeros above; without the own row, what is left of the image moves down by one.
        self.rows = (above, -1) if first else (above, 0)
        rows = above if first else above + 1
        self.vertical = nn.Conv2d(channels, 2 * width, (rows, kernel), padding=(0, kernel // 2))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = MaskedConv2d(
            channels, 2 * width, (1, kernel), mask_type, groups, gated=True, impl=impl
        )
        self.dropout = nn.Dropout(config.dropout)
        self.out = pointwise(width, width, groups, impl)
        self.label = nn.Embedding(config.classes, 4 * width) if config.classes else None

    def forward(self, v: Tensor, h: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return both stacks' features (B, p, H, W) from those before them."""
        a = self.vertical(F.pad(v, (0, 0, *self.rows)))  # (B, 2p, H, W)
        link = self.link(a)
        if label is not None:
            of_v, of_h = self.label(label)[:, :, None, None].chunk(2, dim=1)
            a, link = a + of_v, link + of_h

        gated = self.out(self.dropout(self.horizontal(h, link)))
        return gated_activation(a, impl=self.impl), gated if self.is_first else h + gated

    def describe(
        self, net: PixelNetwork, v: list[Value], h: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        """Add the layer's steps to a network, outside of training."""
        of_v = of_h = None
        if self.label is not None:
            of_v, of_h = self.label.weight.chunk(2, dim=1)
            # The link is of `a` without the label, and here it sees `a` with it.
            of_h = of_h - of_v @ self.link.weight[:, :, 0, 0].T
        origin = self.rows[0], self.vertical.kernel_size[1] // 2
        seen = conv_terms(v, self.vertical.weight, origin)
        a = net.affine(seen, self.vertical.bias, label=of_v, parts=2)

        x = net.masked(h, self.horizontal, beside=(a, self.link), label=of_h)
        x = net.masked(net.maps("gate", x), self.out, add=None if self.is_first else h)
        return [net.map("gate", a)], x


class GatedPixelCNN(ConvolutionalPixelModel):
    r"""A density of images, or of images given their class, by two stacks of gated convolutions.

    .. math:: y = \tanh(W_f * x + V_f^T c) \odot \sigma(W_g * x + V_g^T c)

    is a layer of one stack. Of what the model takes and what it raises, `PixelModel` tells.

    References:
        van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional Image
        Generation with PixelCNN Decoders", NIPS 2016, equations 2 and 4, figures 1 and 2.

    Example:
        >>> import torch
        >>> from dgm_fast.families import GatedPixelCNN, GatedPixelCNNConfig
        >>> model = GatedPixelCNN(GatedPixelCNNConfig((5, 6), classes=2, channels=8, layers=1))
        >>> labels = torch.tensor([0, 1, 1])
        >>> x = model.eval().sample(3, labels)
        >>> x.shape, model.log_prob(x, labels).shape
        (torch.Size([3, 5, 6]), torch.Size([3]))
    """

    family: ClassVar[str] = "gated_pixelcnn"
    config_class: ClassVar[type] = GatedPixelCNNConfig

    def _build(self, config: GatedPixelCNNConfig, impl: str) -> None:
        groups, width = self.output.ordered_channels, config.head_channels
        channels = [config.image_shape[0], *[config.channels] * config.layers]
        self.layers = nn.ModuleList(
            GatedLayer(each, config, "B" if place else "A", groups, impl)
            for place, each in enumerate(channels)
        )
        self.head = nn.ModuleList(
            pointwise(a, b, groups, impl)
            for a, b in ((config.channels, width), (width, self.output.parameters))
        )
        keep_channels_last(self)

    def _network(self, image: Tensor, label: Tensor | None) -> Tensor:
        v = h = image
        for layer in self.layers:
            v, h = layer(v, h, label)
        for layer in self.head:
            h = layer(F.relu(h))
        return h

    def _describe(self) -> PixelNetwork:
        net = PixelNetwork(self.config.image_shape[1:], self.output)
        v = h = net.image
        for layer in self.layers:
            v, h = layer.describe(net, v, h)
        for layer in self.head:
            h = net.masked(net.maps("relu", h), layer)
        return net.draw(h)
