"""The networks of a VAE: values to features, and a latent to the parameters of every value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dgm_fast.families.activations import ACTIVATIONS
from dgm_fast.families.latent.config import VAEConfig

__all__ = ["join", "make_networks"]

Activation = Callable[[Tensor], Tensor]


def make_networks(config: VAEConfig, parameters: int) -> tuple[nn.Module, nn.Module]:
    """Return the encoder, which knows its number of `features`, and the decoder.

    `encoder(x, label)` takes (B, *event_shape), `decoder(z)` (B, L + classes) to (B, D, P).
    """
    options = (ACTIVATIONS[config.activation], config.dropout)
    latent = config.latent_features + config.classes
    backwards = config.hidden[::-1]
    if config.network == "mlp":
        features = math.prod(config.event_shape)
        encoder = MLPEncoder(features, config.hidden, config.classes, options)
        return encoder, MLPDecoder(latent, backwards, features, parameters, options)

    image = (1, *config.event_shape)[-3:]
    encoder = ConvEncoder(image, config.channels, config.hidden, config.classes, options)
    channels = config.channels[::-1]
    return encoder, ConvDecoder(latent, backwards, channels, image, parameters, options)


def join(h: Tensor, label: Tensor | None) -> Tensor:
    """Append the label's one-hot code, where there is one."""
    return h if label is None else torch.cat([h, label.to(h.dtype)], dim=-1)


class Dense(nn.Module):
    """Linear layers, each followed by the activation and dropout; of one width, the identity."""

    def __init__(self, widths: Sequence[int], activation: Activation, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.features = widths[-1]

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = self.dropout(self.activation(layer(h)))

        return h


class MLPEncoder(nn.Module):
    """Maps values (B, D) and the label's one-hot code to features (B, H)."""

    def __init__(
        self, features: int, hidden: Sequence[int], classes: int, options: tuple[Activation, float]
    ) -> None:
        super().__init__()
        self.dense = Dense([features + classes, *hidden], *options)
        self.features = self.dense.features

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        return self.dense(join(x.flatten(1), label))


class MLPDecoder(nn.Module):
    """Maps a latent and the label's code (B, L + classes) to parameters (B, D, P)."""

    def __init__(
        self,
        latent: int,
        hidden: Sequence[int],
        features: int,
        parameters: int,
        options: tuple[Activation, float],
    ) -> None:
        super().__init__()
        self.dense = Dense([latent, *hidden], *options)
        self.output = nn.Linear(self.dense.features, features * parameters)
        self.parameters_per_feature = parameters

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.dense(z)).unflatten(1, (-1, self.parameters_per_feature))


class ConvEncoder(nn.Module):
    """Halves an image (B, C, H, W) once a layer, then goes on as an MLP: features (B, H)."""

    def __init__(
        self,
        image: tuple[int, int, int],
        channels: Sequence[int],
        hidden: Sequence[int],
        classes: int,
        options: tuple[Activation, float],
    ) -> None:
        super().__init__()
        self.image = image
        self.activation = options[0]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1)
            for a, b in pairwise([image[0], *channels])
        )
        height, width = _halved(image[1:], len(channels))
        self.dense = Dense([channels[-1] * height * width + classes, *hidden], *options)
        self.features = self.dense.features

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        h = x.reshape(-1, *self.image)
        for conv in self.convs:
            h = self.activation(conv(h))

        return self.dense(join(h.flatten(1), label))


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`, from (B, L + classes) to parameters (B, D, P)."""

    def __init__(
        self,
        latent: int,
        hidden: Sequence[int],
        channels: Sequence[int],
        image: tuple[int, int, int],
        parameters: int,
        options: tuple[Activation, float],
    ) -> None:
        super().__init__()
        self.activation = options[0]
        self.parameters_per_feature = parameters
        self.smallest = (channels[0], *_halved(image[1:], len(channels)))
        self.dense = Dense([latent, *hidden, torch.Size(self.smallest).numel()], *options)

        self.convs = nn.ModuleList()
        widths = [*channels, image[0] * parameters]
        for place, (a, b) in enumerate(pairwise(widths)):
            # An odd size was rounded down on its way in.
            odd = tuple(size % 2 for size in _halved(image[1:], len(channels) - 1 - place))
            self.convs.append(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, output_padding=odd))

    def forward(self, z: Tensor) -> Tensor:
        h = self.dense(z).unflatten(1, self.smallest)
        *inner, output = self.convs
        for conv in inner:
            h = self.activation(conv(h))

        parameters = output(h).unflatten(1, (-1, self.parameters_per_feature))  # (B, C, P, H, W)
        return parameters.movedim(2, -1).flatten(1, -2)


def _halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    return size[0] >> times, size[1] >> times
