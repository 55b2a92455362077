"""PixelCNN++: shifted convolutions at several scales and a mixture of logistics (Salimans, 2017).

Two streams pass through the network. Convolutions of the first are shifted down, so that it sees
the rows above; those of the second down and right, so that it sees its row up to a pixel, and in
every block it also takes what the first knows. Nothing is masked: kernels are small and placed so
that they see no pixel too many. On the way down strided convolutions halve the image, on the way up
transposed ones enlarge it again, and each block there also sees the output of its counterpart on
the way down: long dependencies cost little, and no detail is lost. Blocks are residual, with a gate
and an ELU of both signs; dropout keeps them from overfitting. A pixel has a mixture of discretized
logistics, whose means depend linearly on the channels before.

Deviations from the paper:
- Plain weights: the authors' code has weight normalisation with an initialisation by data. The last
  convolution of each block begins small here, as there.
- Sizes need not be powers of two: a side of odd size is halved upwards (7 to 4), and on the way up
  features are cut to the size of the ones they join.
- A Bernoulli or logits of the levels are other outputs, of one channel alone: the network does not
  order channels.
- The mixture takes any number of levels; of 256, the likelihood runs on `ops.logistic_mixture_nll`.

Sizes in the paper: for CIFAR-10 160 channels, 5 blocks at each of 3 scales, 10 components and a
dropout of 0.5.

References: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN with Discretized
Logistic Mixture Likelihood and Other Modifications", ICLR 2017; github.com/openai/pixel-cnn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.autoregressive.convolutional_pixel_model import ConvolutionalPixelModel
from dgm_fast.families.autoregressive.pixel_model import PixelConfig
from dgm_fast.families.layout import keep_channels_last
from dgm_fast.sampling.pixelcnn import PixelNetwork, Term, Value, conv_terms

__all__ = ["PixelCNNpp", "PixelCNNppConfig"]

# Of the first stream and of the second: what a convolution sees is the end of its last row's.
_DOWN, _DOWN_RIGHT = (2, 3), (2, 2)


@dataclass(frozen=True)
class PixelCNNppConfig(PixelConfig):
    """Hyperparameters of `PixelCNNpp`, besides those of `PixelConfig`.

    Attributes:
        classes: of the labels that `context` holds, 0 for none.
        channels: of each stream.
        blocks: residual blocks of a scale in each direction.
        scales: resolutions, each half as fine as the one before.
    """

    output: Literal["bernoulli", "categorical", "logistic_mixture"] = "logistic_mixture"
    dropout: float = 0.5
    classes: int = 0
    channels: int = 160
    blocks: int = 5
    scales: int = 3

    _lowest: ClassVar[dict[str, int]] = PixelConfig._lowest | {
        "classes": 0,
        "channels": 1,
        "blocks": 1,
        "scales": 1,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.make_output().ordered_channels > 1:
            raise ValueError(
                f"output must be logistic_mixture for {self.image_shape[0]} channels, which this "
                f"network does not order; got {self.output!r}"
            )


def concat_elu(x: Tensor) -> Tensor:
    """Return the ELU of x and of -x, (B, 2C, H, W)."""
    return F.elu(torch.cat([x, -x], dim=1))


class ShiftedConv(nn.Conv2d):
    """A convolution that sees no row below its pixel and, `right`, no column beyond it.

    With a stride s, place (i, j) of the result is that of pixel (s i, s j).
    """

    def __init__(
        self, channels: int, width: int, kernel: tuple[int, int], *, right: bool, stride: int = 1
    ) -> None:
        rows, columns = kernel
        self.before = (columns - 1 if right else 0, 0, rows - 1, 0)
        sides = 0 if right else columns // 2
        super().__init__(channels, width, kernel, stride=stride, padding=(0, sides))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H, W), sides divided by the stride and rounded up."""
        return super().forward(F.pad(x, self.before))

    @property
    def _own(self) -> tuple[int, int]:
        """The place of the kernel that lies at the pixel itself."""
        rows, columns = self.kernel_size
        return rows - 1, columns - 1 if self.before[0] else columns // 2

    def describe(self, net: PixelNetwork, x: Value) -> Value:
        """Add it to a network, as a step of its own."""
        return net.affine(self.seen(x), self.bias, stride=x.stride * self.stride[0])

    def seen(self, x: Value) -> list[Term]:
        """Return what a step of a network sees of a value by it."""
        return conv_terms([x], self.weight, self._own, (x.stride, x.stride))

    def seen_moved(self, image: list[Value], down: int, right: int) -> list[Term]:
        """Return what a step sees whose result is moved by so many rows and columns.

        What comes in from beyond the image has no bias, so the image's channel of ones brings it.
        """
        (row, column), weight = self._own, self.weight.clone()
        weight[:, -1, row, column] += self.bias
        return conv_terms(image, weight, (row + down, column + right))


class Enlarge(nn.ConvTranspose2d):
    """The way back from a stride of two: what place (i, j) knows goes to rows 2i and 2i + 1."""

    def __init__(self, channels: int, *, right: bool) -> None:
        kernel = _DOWN_RIGHT if right else _DOWN
        side = 0 if right else 1
        super().__init__(
            channels, channels, kernel, stride=2, padding=(0, side), output_padding=(0, side)
        )

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Return (B, channels, *size)."""
        return super().forward(x)[:, :, : size[0], : size[1]]

    def describe(self, net: PixelNetwork, x: Value) -> Value:
        """Add it to a network: a pixel sees those whose value the kernel would spread to it."""
        weight, stride = self.weight.transpose(0, 1).flip(2, 3), x.stride // 2
        origin = tuple(n - 1 - pad for n, pad in zip(self.kernel_size, self.padding, strict=True))
        seen = conv_terms([x], weight, origin, (stride, stride))
        return net.affine(seen, self.bias, stride=stride)


class GatedResnet(nn.Module):
    """Two shifted convolutions and a gate beside a way past them (the paper's section 2.4)."""

    def __init__(self, config: PixelCNNppConfig, beside: int, *, right: bool) -> None:
        super().__init__()
        width, kernel = config.channels, _DOWN_RIGHT if right else _DOWN
        self.conv1 = ShiftedConv(2 * width, width, kernel, right=right)
        self.beside = nn.Conv2d(2 * beside, width, 1) if beside else None
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = ShiftedConv(2 * width, 2 * width, kernel, right=right)
        self.label = nn.Embedding(config.classes, 2 * width) if config.classes else None
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor, beside: Tensor | None, label: Tensor | None) -> Tensor:
        """Return (B, channels, H, W) from the same and from features (B, beside, H, W)."""
        h = self.conv1(concat_elu(x))
        if beside is not None:
            h = h + self.beside(concat_elu(beside))
        h = self.conv2(self.dropout(concat_elu(h)))
        if label is not None:
            h = h + self.label(label)[:, :, None, None]

        value, gate = h.chunk(2, dim=1)
        return x + value * gate.sigmoid()

    def describe(self, net: PixelNetwork, x: Value, *beside: Value) -> Value:
        """Add the block's steps to a network, outside of training."""
        seen, biases = self.conv1.seen(net.map("concat_elu", x)), [self.conv1.bias]
        if self.beside is not None:
            # Their values and, after all of them, their negatives.
            signs = self.beside.weight.unflatten(1, (2, len(beside), -1)).transpose(1, 2)
            weight = signs.flatten(1, 3)
            seen += conv_terms([net.map("concat_elu", each) for each in beside], weight, (0, 0))
            biases.append(self.beside.bias)
        h = net.affine(seen, *biases, stride=x.stride)
        seen = self.conv2.seen(net.map("concat_elu", h))
        label = None if self.label is None else self.label.weight
        h = net.affine(seen, self.conv2.bias, label=label, parts=2, stride=x.stride)
        return net.map("glu", h, add=x)


class Block(nn.Module):
    """A residual block of each stream; on the way up, each sees its counterpart's output too."""

    def __init__(self, config: PixelCNNppConfig, *, up: bool) -> None:
        super().__init__()
        width = config.channels
        self.u = GatedResnet(config, width if up else 0, right=False)
        self.ul = GatedResnet(config, 2 * width if up else width, right=True)

    def forward(
        self, u: Tensor, ul: Tensor, passed: tuple[Tensor, Tensor] | None, label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return both streams' features."""
        if passed is None:
            u = self.u(u, None, label)
            return u, self.ul(ul, u, label)

        u = self.u(u, passed[0], label)
        return u, self.ul(ul, torch.cat([u, passed[1]], dim=1), label)

    def describe(
        self, net: PixelNetwork, u: Value, ul: Value, passed: tuple[Value, Value] | None = None
    ) -> tuple[Value, Value]:
        """Add the block's steps to a network, outside of training."""
        below, left = ([], []) if passed is None else ([each] for each in passed)
        u = self.u.describe(net, u, *below)
        return u, self.ul.describe(net, ul, u, *left)


class First(nn.Module):
    """The first convolutions, moved by a row or a column so that no pixel sees itself."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        # One channel more, of ones, tells the image from what lies beyond it.
        self.u = ShiftedConv(channels + 1, width, (2, 3), right=False)
        self.above = ShiftedConv(channels + 1, width, (1, 3), right=False)
        self.left = ShiftedConv(channels + 1, width, (2, 1), right=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams' features (B, width, H, W) from images (B, C, H, W)."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        down, right = (0, 0, 1, -1), (1, -1, 0, 0)
        return F.pad(self.u(x), down), F.pad(self.above(x), down) + F.pad(self.left(x), right)

    def describe(self, net: PixelNetwork) -> tuple[Value, Value]:
        """Add the first steps to a network whose image has a channel of ones."""
        u = net.affine(self.u.seen_moved(net.image, 1, 0))
        seen = self.above.seen_moved(net.image, 1, 0) + self.left.seen_moved(net.image, 0, 1)
        return u, net.affine(seen)


class Resample(nn.Module):
    """The step of both streams to the next scale, coarser or finer."""

    def __init__(self, width: int, *, up: bool) -> None:
        super().__init__()
        if up:
            self.u, self.ul = Enlarge(width, right=False), Enlarge(width, right=True)
        else:
            self.u = ShiftedConv(width, width, _DOWN, right=False, stride=2)
            self.ul = ShiftedConv(width, width, _DOWN_RIGHT, right=True, stride=2)

    def forward(self, u: Tensor, ul: Tensor, *size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return both streams' features; to enlarge them takes the size they shall have."""
        return self.u(u, *size), self.ul(ul, *size)

    def describe(self, net: PixelNetwork, u: Value, ul: Value) -> tuple[Value, Value]:
        """Add both steps to a network."""
        return self.u.describe(net, u), self.ul.describe(net, ul)


class PixelCNNpp(ConvolutionalPixelModel):
    r"""A density of images by two streams of shifted convolutions at several scales.

    .. math:: \log p(x \mid c) = \sum_{i=1}^{H W} \log \sum_{k=1}^{K} \pi_{ik} \prod_{j=1}^{C}
              \left[\sigma\!\left(\frac{x_{ij} - m_{ijk} + \delta}{s_{ijk}}\right)
              - \sigma\!\left(\frac{x_{ij} - m_{ijk} - \delta}{s_{ijk}}\right)\right]

    where pi, m and s depend on the pixels before i, delta is half a level, and the lowest and the
    highest level have the tails; m also depends, linearly, on the channels of the pixel before j.
    The other outputs have a sum over pixels alike. Of what the model takes, its gradients and what
    it raises, `PixelModel` tells.

    References:
        Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017, section 2, equations 2 and 3,
        figure 2.

    Example:
        >>> import torch
        >>> from dgm_fast.families import PixelCNNpp, PixelCNNppConfig
        >>> config = PixelCNNppConfig((3, 4, 5), channels=8, blocks=1, scales=2, components=2)
        >>> model = PixelCNNpp(config).eval()
        >>> x = model.sample(2)
        >>> x.shape, model.log_prob(x).shape
        (torch.Size([2, 3, 4, 5]), torch.Size([2]))
    """

    family: ClassVar[str] = "pixelcnn_pp"
    config_class: ClassVar[type] = PixelCNNppConfig

    def _build(self, config: PixelCNNppConfig, impl: str) -> None:
        width, scales = config.channels, config.scales
        self.first = First(config.image_shape[0], width)
        self.down, self.up = (
            nn.ModuleList(
                nn.ModuleList(Block(config, up=up) for _ in range(config.blocks + (up and i > 0)))
                for i in range(scales)
            )
            for up in (False, True)
        )
        self.halve = nn.ModuleList(Resample(width, up=False) for _ in range(scales - 1))
        self.enlarge = nn.ModuleList(Resample(width, up=True) for _ in range(scales - 1))
        self.last = nn.Conv2d(width, self.output.parameters, 1)
        keep_channels_last(self)

    def _network(self, image: Tensor, label: Tensor | None) -> Tensor:
        streams = self.first(image)
        passed = [streams]
        for scale, blocks in enumerate(self.down):
            if scale > 0:
                streams = self.halve[scale - 1](*streams)
                passed.append(streams)
            for block in blocks:
                streams = block(*streams, None, label)
                passed.append(streams)

        streams = passed.pop()
        for scale, blocks in enumerate(self.up):
            if scale > 0:
                streams = self.enlarge[scale - 1](*streams, passed[-1][0].shape[2:])
            for block in blocks:
                streams = block(*streams, passed.pop(), label)

        return self.last(F.elu(streams[1]))

    def _describe(self) -> PixelNetwork:
        net = PixelNetwork(self.config.image_shape[1:], self.output, ones=True)
        streams = self.first.describe(net)
        passed = [streams]
        for scale, blocks in enumerate(self.down):
            if scale > 0:
                streams = self.halve[scale - 1].describe(net, *streams)
                passed.append(streams)
            for block in blocks:
                streams = block.describe(net, *streams)
                passed.append(streams)

        streams = passed.pop()
        for scale, blocks in enumerate(self.up):
            if scale > 0:
                streams = self.enlarge[scale - 1].describe(net, *streams)
            for block in blocks:
                streams = block.describe(net, *streams, passed.pop())
        return net.draw(net.masked([net.map("elu", streams[1])], self.last))
