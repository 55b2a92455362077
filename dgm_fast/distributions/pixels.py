"""The distribution of each pixel given the parameters that a network puts out for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast.distributions.conditional import (
    BernoulliConditional,
    CategoricalConditional,
    Conditional,
)
from dgm_fast.distributions.logistic_mixture import LogisticMixture, logistic_mixture_log_prob
from dgm_fast.ops import philox_uniform
from dgm_fast.ops.logistic_mixture_nll.reference import parameters_of_channel

__all__ = [
    "PIXEL_OUTPUTS",
    "BernoulliPixels",
    "CategoricalPixels",
    "LogisticMixturePixels",
    "PixelOutput",
    "make_pixel_output",
]


@dataclass(frozen=True)
class PixelOutput(ABC):
    """Turns the (B, P, H, W) output of a network into a distribution of images (B, C, H, W).

    Values are integers 0 .. levels - 1. To be sampled, an image is a row of features, (B, D, V): V
    values that are drawn at once, pixel after pixel in raster order, where V is 1, and C features
    a pixel, or C. Sampling is split into `draw_noise` and `pick`, a deterministic function of the
    noise, so that two samplers given the same noise must give the same values.

    Attributes:
        channels: C.
        levels: number of values.
        impl: of the ops inside.

    Precision:
        bfloat16 and float16 parameters are computed on in float32.
    """

    channels: int
    levels: int
    impl: str = "auto"

    @property
    @abstractmethod
    def parameters(self) -> int:
        """P, channel by channel where channels are drawn so."""

    @property
    @abstractmethod
    def values_at_once(self) -> int:
        """V: 1 or C."""

    @property
    def uniforms(self) -> int:
        """N: how many numbers a draw takes."""
        return 1

    @property
    def ordered_channels(self) -> int:
        """How many steps a pixel is drawn in: the groups of channels that masks must order."""
        return self.channels // self.values_at_once

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the log-probability of images (B, C, H, W), (B,), in nats."""

    @abstractmethod
    def draw_noise(self, samples: int, features: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
        """Draw the (samples, D, N) noise that `seed`, an int64 scalar tensor, stands for."""

    @abstractmethod
    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the values (B, V) of one feature from its parameters (B, P') and noise (B, N).

        The temperature divides the logits and multiplies the scales; 0 leaves the likeliest value,
        or the mean of the heaviest component.
        """

    def encode(self, x: Tensor) -> Tensor:
        """Return values as the network sees them, -1 ... 1."""
        # A division, because it is exact at both ends.
        return x / ((self.levels - 1) / 2) - 1

    def to_features(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), or parameters (B, P, H, W), as features (B, D, V or P')."""
        B, channels, H, W = images.shape
        D = H * W * self.ordered_channels
        return images.permute(0, 2, 3, 1).reshape(B, D, channels // self.ordered_channels)

    def to_images(self, features: Tensor, height: int, width: int) -> Tensor:
        """Return features (B, D, V) as images (B, C, H, W)."""
        pixels = features.reshape(len(features), height, width, self.channels)
        return pixels.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _ChannelByChannel(PixelOutput):
    """Every value has a conditional distribution of its own, given the channels before it."""

    @property
    @abstractmethod
    def conditional(self) -> Conditional:
        """The distribution of one value."""

    @property
    def parameters(self) -> int:
        return self.channels * self.conditional.parameters_per_feature

    @property
    def values_at_once(self) -> int:
        return 1

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        x = self.to_features(x).squeeze(-1)
        return self.conditional.log_prob(self.to_features(parameters), x)

    def draw_noise(self, samples: int, features: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
        return self.conditional.draw_noise(samples, features, seed, dtype)

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        if temperature == 0:
            return self._likeliest(parameters).unsqueeze(-1)
        if temperature != 1:
            parameters = parameters / temperature
        return self.conditional.pick(parameters, noise).unsqueeze(-1)

    @abstractmethod
    def _likeliest(self, parameters: Tensor) -> Tensor:
        """Return the likeliest value (B,)."""


@dataclass(frozen=True)
class BernoulliPixels(_ChannelByChannel):
    """Binary values: P = C, the logit of each channel's 1."""

    @property
    def conditional(self) -> Conditional:
        return BernoulliConditional()

    def _likeliest(self, parameters: Tensor) -> Tensor:
        return (parameters.squeeze(-1) > 0).to(parameters.dtype)


@dataclass(frozen=True)
class CategoricalPixels(_ChannelByChannel):
    """Any distribution of the levels: P = C * levels logits, those of the first channel first."""

    @property
    def conditional(self) -> Conditional:
        return CategoricalConditional(self.levels)

    def _likeliest(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1).to(parameters.dtype)


@dataclass(frozen=True)
class LogisticMixturePixels(PixelOutput):
    """PixelCNN++'s mixture of discretized logistics, which itself orders a pixel's channels.

    All channels of a pixel are drawn at once. `LogisticMixture` has the order of the parameters:
    P = K (1 + 2) of grey pixels, K (1 + 3 * 3) of colours.
    """

    components: int = 10

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3 of a mixture; got {self.channels}")

    @property
    def parameters(self) -> int:
        return self.components * (1 + self.channels * parameters_of_channel(self.channels))

    @property
    def values_at_once(self) -> int:
        return self.channels

    @property
    def uniforms(self) -> int:
        return 1 + self.channels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        x = self.encode(x.to(torch.promote_types(x.dtype, torch.float32)))
        return logistic_mixture_log_prob(x, parameters, self.levels, impl=self.impl)

    def draw_noise(self, samples: int, features: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
        dtype = torch.promote_types(dtype, torch.float32)
        draws = [
            philox_uniform((samples, features), seed=seed, stream=stream, dtype=dtype)
            for stream in range(self.uniforms)
        ]
        return torch.stack(draws, dim=-1)

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        x = LogisticMixture(parameters, self.channels, self.levels).pick(noise, temperature)
        return ((x + 1) * ((self.levels - 1) / 2)).round()


PIXEL_OUTPUTS = ("bernoulli", "categorical", "logistic_mixture")


def make_pixel_output(
    name: str, channels: int, levels: int, components: int, impl: str = "auto"
) -> PixelOutput:
    """Make the one of `PIXEL_OUTPUTS` that a configuration names.

    Arguments:
        name: of the output.
        channels: C.
        levels: number of values; `bernoulli` has 2 whatever this says.
        components: K of `logistic_mixture`.
        impl: of the ops inside.

    Example:
        >>> import math, torch
        >>> output = make_pixel_output("categorical", channels=3, levels=4, components=1)
        >>> x = torch.randint(4, (2, 3, 5, 6))
        >>> parameters = torch.zeros(2, output.parameters, 5, 6)
        >>> bits = -output.log_prob(parameters, x) / math.log(2)
        >>> bits.round().tolist()  # two a value
        [180.0, 180.0]
    """
    if name == "logistic_mixture":
        return LogisticMixturePixels(channels, levels, impl, components)
    if name == "categorical":
        return CategoricalPixels(channels, levels, impl)
    return BernoulliPixels(channels, 2, impl)
