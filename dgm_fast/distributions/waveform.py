"""The distribution of each sample of a signal given the parameters that a network puts out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.distributions.categories import pick_category
from dgm_fast.distributions.logistic_mixture import LogisticMixture, logistic_mixture_log_prob
from dgm_fast.distributions.quantizer import Quantizer
from dgm_fast.ops import philox_uniform

__all__ = [
    "WAVEFORM_OUTPUTS",
    "CategoricalWaveform",
    "LogisticMixtureWaveform",
    "WaveformOutput",
    "make_waveform_output",
]


@dataclass(frozen=True)
class WaveformOutput(ABC):
    """Turns the (B, P, T) output of a network into a distribution of levels (B, T).

    Sampling is split into `draw_noise` and `pick`, a deterministic function of the noise, so that
    two samplers given the same noise must give the same levels.

    Attributes:
        quantizer: of the levels.
        impl: of the ops inside.

    Precision:
        bfloat16 and float16 parameters are computed on in float32.
    """

    quantizer: Quantizer
    impl: str = "auto"

    uniforms: ClassVar[int] = 1

    @property
    @abstractmethod
    def parameters(self) -> int:
        """P."""

    @abstractmethod
    def log_prob(self, parameters: Tensor, levels: Tensor) -> Tensor:
        """Return the log-probability of levels (B, T), int64, in nats, (B,)."""

    @abstractmethod
    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the levels (B,) that noise (B, N) stands for under parameters (B, P).

        The temperature divides the logits and multiplies the scales; 0 leaves the heaviest level,
        or the mean of the heaviest component.
        """

    def draw_noise(self, samples: int, length: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
        """Draw the (samples, T, N) uniforms that `seed`, an int64 scalar tensor, stands for."""
        dtype = torch.promote_types(dtype, torch.float32)
        draws = [
            philox_uniform((samples, length), seed=seed, stream=stream, dtype=dtype)
            for stream in range(self.uniforms)
        ]
        return torch.stack(draws, dim=-1)


@dataclass(frozen=True)
class CategoricalWaveform(WaveformOutput):
    """Any distribution of the levels: P = L logits."""

    @property
    def parameters(self) -> int:
        return self.quantizer.levels

    def log_prob(self, parameters: Tensor, levels: Tensor) -> Tensor:
        parameters = _at_least_float32(parameters)
        return -F.cross_entropy(parameters, levels, reduction="none").sum(1)

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return pick_category(_at_least_float32(parameters), noise[:, 0], temperature, dim=1)


@dataclass(frozen=True)
class LogisticMixtureWaveform(WaveformOutput):
    """A mixture of discretized logistics on the levels' scale: P = 3K, as `LogisticMixture` has it.

    Attributes:
        components: K.
    """

    components: int = 10

    uniforms: ClassVar[int] = 2

    @property
    def parameters(self) -> int:
        return 3 * self.components

    def log_prob(self, parameters: Tensor, levels: Tensor) -> Tensor:
        dtype = torch.promote_types(parameters.dtype, torch.float32)
        x = self.quantizer.scaled(levels, dtype).unsqueeze(1)
        return logistic_mixture_log_prob(x, parameters, self.quantizer.levels, impl=self.impl)

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        mixture = LogisticMixture(parameters, 1, self.quantizer.levels)
        y = mixture.pick(noise, temperature).squeeze(1)
        # Of NaN, the first level.
        return ((y + 1) * ((self.quantizer.levels - 1) / 2)).round().nan_to_num(0.0).long()


WAVEFORM_OUTPUTS = ("categorical", "logistic_mixture")


def make_waveform_output(
    name: str, quantizer: Quantizer, components: int = 10, impl: str = "auto"
) -> WaveformOutput:
    """Make the one of `WAVEFORM_OUTPUTS` that a configuration names.

    Arguments:
        name: of the output.
        quantizer: of the levels.
        components: K of `logistic_mixture`.
        impl: of the ops inside.

    Example:
        >>> import math, torch
        >>> from dgm_fast.distributions import Quantizer
        >>> output = make_waveform_output("categorical", Quantizer("mu_law", 16))
        >>> levels = torch.randint(16, (2, 5))
        >>> bits = -output.log_prob(torch.zeros(2, output.parameters, 5), levels) / math.log(2)
        >>> bits.round().tolist()  # four a sample
        [20.0, 20.0]
    """
    if name == "logistic_mixture":
        return LogisticMixtureWaveform(quantizer, impl, components)
    return CategoricalWaveform(quantizer, impl)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
