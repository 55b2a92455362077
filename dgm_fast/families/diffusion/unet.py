"""The network of a diffusion model: a small U-Net that is told the time, and perhaps a class.

As in Ho, Jain and Abbeel (2020, appendix B): residual blocks of two 3 x 3 convolutions with group
normalisation and the swish activation, self-attention at chosen resolutions, and the time as a
sinusoidal embedding given to each block; layers that end a residual branch begin at zero.

Deviations:
- The embedding scales and shifts the second normalisation of a block (Nichol and Dhariwal, 2021,
  section 6) rather than being added before it.
- Sines and cosines of the input may go in beside it (Kingma et al., 2021, appendix C).
- The image may be folded first: `patch` x `patch` pixels become channels of one, so that all of
  the work is done at the lower resolution; it is what makes 28 x 28 affordable on a few cores.
- Sizes need not be powers of two: a level of odd size is halved upwards (7 to 4), and on the way
  up features take the size of the ones they join.
- As many blocks on the way up as on the way down, rather than one more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.layout import keep_channels_last

if TYPE_CHECKING:
    from dgm_fast.families.diffusion.config import DDPMConfig

__all__ = ["UNet", "make_unet"]


def sinusoidal_embedding(position: Tensor, features: int) -> Tensor:
    r"""Embed positions (B,) as cosines and sines of geometric frequencies, (B, features).

    .. math:: \omega_i = 10^{-4 i / h}, \quad i = 0 \dots h - 1, \quad h = \text{features} / 2

    References:
        Vaswani et al., "Attention is all you need", 2017, section 3.5.
    """
    half = features // 2
    exponent = torch.arange(half, device=position.device, dtype=torch.float32) / half
    angle = position.float()[:, None] * torch.exp(exponent * -math.log(1e4))
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, features % 2))


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(groups, channels), channels)


class ResidualBlock(nn.Module):
    """Two convolutions around the embedding of the time, a way past them, perhaps attention."""

    def __init__(
        self, channels: int, width: int, heads: int, *, embedding: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = _norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.embedding = nn.Linear(embedding, 2 * width)
        self.norm2 = _norm(width, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()
        self.attention = Attention(width, heads, groups) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, width, H, W) from x (B, channels, H, W) and the embedding (B, E)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.embedding(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        return self.attention(self.skip(x) + h)


class Attention(nn.Module):
    """Self-attention over all places of an image, added to its input."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels, groups)
        self.project_in = nn.Conv2d(channels, 3 * channels, 1)
        self.project_out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) and what its places attend to."""
        B, C, H, W = x.shape
        # (B, 3C, H, W) -> query, key and value (B, heads, H * W, C / heads)
        three = self.project_in(self.norm(x)).flatten(2).transpose(1, 2)
        heads = three.view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        h = F.scaled_dot_product_attention(query, key, value)
        return x + self.project_out(h.transpose(2, 3).reshape(B, C, H, W))


class Middle(nn.Module):
    """Two blocks at the lowest resolution."""

    def __init__(self, width: int, heads: int, block: Callable[..., ResidualBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block(width, width, heads), block(width, width, 0)])

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, width, H, W) from the same."""
        for block in self.blocks:
            h = block(h, embedding)
        return h


class Level(nn.Module):
    """The blocks of one resolution on the way down, all that lies below, and those on the way up.

    Each block on the way up also sees what its counterpart on the way down put out.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        heads: int,
        blocks: int,
        below: nn.Module,
        below_width: int | None,
        block: Callable[..., ResidualBlock],
    ) -> None:
        super().__init__()
        widths = [channels, *[width] * (blocks - 1)]
        self.down = nn.ModuleList(block(each, width, heads) for each in widths)
        self.halve, self.enlarge = None, None
        if below_width is not None:
            self.halve = nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.enlarge = nn.Conv2d(below_width, width, 3, padding=1)
        self.below = below
        self.up = nn.ModuleList(block(2 * width, width, heads) for _ in range(blocks))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, width, H, W) from (B, channels, H, W)."""
        passed = []
        for block in self.down:
            h = block(h, embedding)
            passed.append(h)

        if self.halve is None:
            h = self.below(h, embedding)
        else:
            below = self.below(self.halve(h), embedding)
            h = self.enlarge(F.interpolate(below, size=h.shape[-2:]))

        for block in self.up:
            h = block(torch.cat([h, passed.pop()], dim=1), embedding)
        return h


class UNet(nn.Module):
    """Predicts noise, velocity or x_0 from (x_t, t), on images of any size.

    Arguments:
        event_shape: (C, H, W), or (H, W) of images with one channel that is not spelt out.
        timesteps: T, the number of times.
        channels: width of the first level.
        multipliers: width of each level in units of `channels`; each halves the resolution.
        blocks: residual blocks of a level in each direction.
        attention: levels that attend, counted from 0; the middle does if any does.
        heads: of the attention.
        patch: pixels a side that are folded into channels.
        dropout: inside the residual blocks.
        groups: of the group normalisation; the greatest common divisor with the channels is taken.
        frequencies: of sines and cosines of x_t that go in beside it.
        labels: number of labels to embed, 0 for none.

    Shapes:
        x_t (B, *event_shape), t (B,) int64, label (B,) int64; returns (B, *event_shape).

    Precision:
        That of the weights inside; the result has the dtype of x_t.

    Raises:
        ValueError: `event_shape` has not two or three dims, or `heads` does not divide a width.

    Example:
        >>> import torch
        >>> network = UNet((28, 28), timesteps=100, channels=16)
        >>> network(torch.randn(2, 28, 28), torch.tensor([3, 99])).shape
        torch.Size([2, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        timesteps: int,
        *,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        heads: int = 1,
        patch: int = 1,
        dropout: float = 0.0,
        groups: int = 8,
        frequencies: Sequence[float] = (),
        labels: int = 0,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        if len(event_shape) not in (2, 3):
            raise ValueError(f"event_shape must be (H, W) or (C, H, W); got {tuple(event_shape)}")
        if attention and any(width % heads for width in widths):
            raise ValueError(f"heads must divide the widths {widths}; got {heads}")

        self.timesteps, self.channels, self.patch = timesteps, channels, patch
        self.frequencies = tuple(frequencies)
        embedding = 4 * channels
        self.time = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(labels, embedding) if labels else None

        # From the lowest level up, each holding the one below it.
        block = partial(ResidualBlock, embedding=embedding, groups=groups, dropout=dropout)
        body, below_width = Middle(widths[-1], heads if attention else 0, block), None
        for index in reversed(range(len(widths))):
            above, width = [channels, *widths][index], widths[index]
            attends = heads if index in attention else 0
            body = Level(above, width, attends, blocks, body, below_width, block)
            below_width = width

        self.in_channels = math.prod(event_shape[:-2])
        folded = self.in_channels * patch**2
        self.first = nn.Conv2d(folded * (1 + 2 * len(frequencies)), channels, 3, padding=1)
        self.body = body
        self.norm = _norm(widths[0], groups)
        self.last = _zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))
        keep_channels_last(self)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction, shaped and typed like x_t."""
        H, W = x_t.shape[-2:]
        dtype = self.first.weight.dtype
        # Times span 0 .. 1000 for any T: near ones stay near, and the first differs from the last.
        position = (t + 1) * (1000 / self.timesteps)
        embedding = self.time(sinusoidal_embedding(position, self.channels).to(dtype))
        if self.label is not None:
            embedding = embedding + self.label(label)

        x = x_t.reshape(len(x_t), self.in_channels, H, W)
        waves = [wave(each * x) for each in self.frequencies for wave in (torch.sin, torch.cos)]
        x = self._fold(torch.cat([x, *waves], dim=1).to(dtype))
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        h = self.last(F.silu(self.norm(self.body(h, F.silu(embedding)))))
        # Samplers go through memory in order.
        return self._unfold(h, H, W).reshape(x_t.shape).to(x_t.dtype).contiguous()

    def _fold(self, x: Tensor) -> Tensor:
        if self.patch == 1:
            return x
        H, W = x.shape[-2:]
        # Zeros fill the last patch of a size that is no multiple.
        x = F.pad(x, (0, -W % self.patch, 0, -H % self.patch))
        # torch's pixel_unshuffle leaves an empty batch as it is.
        x = x.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        return x.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    def _unfold(self, h: Tensor, H: int, W: int) -> Tensor:
        if self.patch == 1:
            return h
        h = h.unflatten(1, (-1, self.patch, self.patch)).permute(0, 1, 4, 2, 5, 3)
        return h.flatten(4, 5).flatten(2, 3)[..., :H, :W]


def make_unet(config: DDPMConfig) -> UNet:
    """Return the network that the hyperparameters of a diffusion model describe."""
    # The highest has the period of one grey level.
    highest = math.pi * ((config.levels or 1) - 1)
    frequencies = [highest / 2**octave for octave in range(config.fourier)]
    return UNet(
        config.event_shape,
        config.timesteps,
        channels=config.channels,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention=config.attention,
        heads=config.heads,
        patch=config.patch,
        dropout=config.dropout,
        groups=config.groups,
        frequencies=frequencies,
        labels=config.classes + 1 if config.classes else 0,
    )
