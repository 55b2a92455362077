"""The distribution of each feature given the parameters that a network puts out for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
)

from dgm_fast._core.checks import may_look_at
from dgm_fast.distributions.categories import pick_category
from dgm_fast.distributions.discretized_logistic import DiscretizedLogistic
from dgm_fast.ops import philox_normal, philox_uniform

__all__ = [
    "BernoulliConditional",
    "CategoricalConditional",
    "Conditional",
    "DiscretizedLogisticConditional",
    "GaussianConditional",
    "GaussianMixtureConditional",
]


class Conditional(ABC):
    """Turns the (*, D, P) output of a network into a distribution of (*, D) values.

    Sampling is split into `draw_noise` and `pick`, a deterministic function of the noise, so that
    two samplers given the same noise must give the same values.

    Attributes:
        parameters_per_feature: P.
        noise_kinds: `"uniform"` or `"normal"` for each number that one value is made from.

    Precision:
        bfloat16 and float16 parameters are computed on in float32.
    """

    noise_kinds: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def parameters_per_feature(self) -> int:
        """P."""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Independent:
        """Return the distribution, with event shape (D,), that parameters (*, D, P) mean."""

    @abstractmethod
    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the values (*) that noise (*, N) stands for under parameters (*, P).

        The temperature divides logits and multiplies scales; 0 leaves the heaviest value or
        component, and means.
        """

    def encode(self, x: Tensor) -> Tensor:
        """Return values as the network sees them."""
        return x

    def check_values(self, x: Tensor) -> None:  # noqa: B027 (real values need no check)
        """Raise ValueError for values outside the support; silent where looking costs a sync."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the log-density of x (*, D) under parameters (*, D, P), in nats, (*)."""
        parameters = _at_least_float32(parameters)
        # Independent's own sum cannot reshape an empty batch.
        features = self.distribution(parameters).base_dist
        return features.log_prob(x.to(parameters.dtype)).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected values (*, D) under parameters (*, D, P)."""
        return self.distribution(_at_least_float32(parameters)).mean

    def draw_noise(self, samples: int, features: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
        """Draw the (samples, features, N) noise that `seed`, an int64 scalar tensor, stands for."""
        dtype = torch.promote_types(dtype, torch.float32)
        draw = {"uniform": philox_uniform, "normal": philox_normal}
        noise = [
            draw[kind]((samples, features), seed=seed, stream=stream, dtype=dtype)
            for stream, kind in enumerate(self.noise_kinds)
        ]
        # One alone need not be copied.
        return noise[0].unsqueeze(-1) if len(noise) == 1 else torch.stack(noise, dim=-1)


@dataclass(frozen=True)
class BernoulliConditional(Conditional):
    """Binary features: P = 1, the logit of x = 1.

    A value inside (0, 1) is taken as the probability of a one, and `log_prob` as the expectation
    over it: the negative cross-entropy.
    """

    noise_kinds: ClassVar[tuple[str, ...]] = ("uniform",)

    @property
    def parameters_per_feature(self) -> int:
        """One."""
        return 1

    def distribution(self, parameters: Tensor) -> Independent:
        """Return independent Bernoullis."""
        logits = parameters.squeeze(-1)
        return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return 1 where the uniform is below the probability of a one."""
        logits = _at_least_float32(parameters).squeeze(-1)
        if temperature == 0:
            return (logits > 0).to(parameters.dtype)
        return (noise.squeeze(-1) < torch.sigmoid(logits / temperature)).to(parameters.dtype)

    def check_values(self, x: Tensor) -> None:
        """Raise ValueError unless x lies in [0, 1]."""
        _check_range(x, 0, 1)


@dataclass(frozen=True)
class CategoricalConditional(Conditional):
    """Integers 0..K-1: P = K logits. The network sees them scaled to [-1, 1]."""

    categories: int
    noise_kinds: ClassVar[tuple[str, ...]] = ("uniform",)

    @property
    def parameters_per_feature(self) -> int:
        """K."""
        return self.categories

    def distribution(self, parameters: Tensor) -> Independent:
        """Return independent categoricals."""
        return Independent(
            Categorical(logits=parameters, validate_args=False), 1, validate_args=False
        )

    def encode(self, x: Tensor) -> Tensor:
        """Scale 0..K-1 to [-1, 1]."""
        return x * (2 / (self.categories - 1)) - 1

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the category whose stretch of the cumulative distribution holds the uniform."""
        logits = _at_least_float32(parameters)
        return pick_category(logits, noise[..., 0], temperature).to(parameters.dtype)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected category, taken as a number."""
        probability = _at_least_float32(parameters).softmax(-1)
        numbers = torch.arange(self.categories, dtype=probability.dtype, device=probability.device)
        return probability @ numbers

    def check_values(self, x: Tensor) -> None:
        """Raise ValueError unless x holds integers in [0, K-1]."""
        _check_integers(x, self.categories)


@dataclass(frozen=True)
class DiscretizedLogisticConditional(Conditional):
    """Integers 0..L-1: P = 2, mean and log_scale of a logistic on levels scaled to [-1, 1].

    The network sees the levels at that scale too.
    """

    levels: int
    noise_kinds: ClassVar[tuple[str, ...]] = ("uniform",)

    @property
    def parameters_per_feature(self) -> int:
        """Two."""
        return 2

    def distribution(self, parameters: Tensor) -> Independent:
        """Return independent discretized logistics."""
        mean, log_scale = parameters.unbind(-1)
        logistic = DiscretizedLogistic(mean, log_scale, self.levels, validate_args=False)
        return Independent(logistic, 1, validate_args=False)

    def encode(self, x: Tensor) -> Tensor:
        """Scale 0..L-1 to [-1, 1]."""
        return x * (2 / (self.levels - 1)) - 1

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the level whose stretch of the cumulative distribution holds the uniform."""
        mean, log_scale = _at_least_float32(parameters).unbind(-1)
        logistic = DiscretizedLogistic(mean, log_scale, self.levels, validate_args=False)
        # Of no width, an infinity is none: the middle.
        u = noise[..., 0] if temperature > 0 else torch.full_like(noise[..., 0], 0.5)
        return logistic.icdf(u, temperature).to(parameters.dtype)

    def check_values(self, x: Tensor) -> None:
        """Raise ValueError unless x holds integers in [0, L-1]."""
        _check_integers(x, self.levels)


@dataclass(frozen=True)
class GaussianConditional(Conditional):
    """Real features: P = 2, mean and log_scale, the log of the standard deviation."""

    noise_kinds: ClassVar[tuple[str, ...]] = ("normal",)

    @property
    def parameters_per_feature(self) -> int:
        """Two."""
        return 2

    def distribution(self, parameters: Tensor) -> Independent:
        """Return independent Gaussians."""
        mean, log_scale = parameters.unbind(-1)
        return Independent(
            Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False
        )

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return mean + scale * normal."""
        mean, log_scale = _at_least_float32(parameters).unbind(-1)
        return (mean + temperature * log_scale.exp() * noise[..., 0]).to(parameters.dtype)


@dataclass(frozen=True)
class GaussianMixtureConditional(Conditional):
    """Real features: P = 3K, the K logits of the weights, then K means, then K log_scales."""

    components: int
    noise_kinds: ClassVar[tuple[str, ...]] = ("uniform", "normal")

    @property
    def parameters_per_feature(self) -> int:
        """3K."""
        return 3 * self.components

    def distribution(self, parameters: Tensor) -> Independent:
        """Return independent mixtures of Gaussians."""
        logits, mean, log_scale = parameters.unflatten(-1, (3, self.components)).unbind(-2)
        mixture = MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Normal(mean, log_scale.exp(), validate_args=False),
            validate_args=False,
        )
        return Independent(mixture, 1, validate_args=False)

    def pick(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Let the uniform choose a component and the normal a value of it."""
        logits, mean, log_scale = (
            _at_least_float32(parameters).unflatten(-1, (3, self.components)).unbind(-2)
        )
        component = pick_category(logits, noise[..., 0], temperature).unsqueeze(-1)
        mean = mean.gather(-1, component).squeeze(-1)
        log_scale = log_scale.gather(-1, component).squeeze(-1)
        return (mean + temperature * log_scale.exp() * noise[..., 1]).to(parameters.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_range(x: Tensor, low: int, high: int) -> None:
    if not may_look_at(x):
        return

    # One pass, and no temporaries of x's size: this runs at every training step.
    smallest, largest = (bound.item() for bound in x.aminmax())
    if smallest < low or largest > high:
        raise ValueError(f"x must hold values in [{low}, {high}]; got {smallest} to {largest}")


def _check_integers(x: Tensor, count: int) -> None:
    _check_range(x, 0, count - 1)
    if may_look_at(x) and x.is_floating_point() and bool((x != x.round()).any()):
        raise ValueError("x must hold integers (as any dtype); got fractions")
