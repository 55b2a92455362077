"""What makes a feature of its parameters: a draw of its conditional, or the inverse of a flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from dgm_fast.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    Conditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
    GaussianMixtureConditional,
)
from dgm_fast.distributions.discretized_logistic import lowest_log_scale
from dgm_fast.ops import affine_coupling, rational_quadratic_spline
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.noise import SeededNoise

__all__ = ["AffineInverse", "Draw", "KernelStep", "SplineInverse", "Step"]

# In the order of `Kind` in the kernels' step.h.
_CONDITIONALS = (
    BernoulliConditional,
    CategoricalConditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
    GaussianMixtureConditional,
)
_AFFINE, _SPLINE = range(len(_CONDITIONALS), len(_CONDITIONALS) + 2)


@dataclass(frozen=True)
class KernelStep:
    """A step as the kernels take it; the network sees x * scale + shift."""

    kind: int
    noise: int
    levels: int = 0
    standardize: bool = False
    filters: Filters = field(default_factory=Filters)
    lowest_log_scale: float = 0.0
    bound: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    min_bin: float = 0.0
    min_derivative: float = 1.0

    @property
    def integers(self) -> list[int]:
        """What is whole, in the order of the operator."""
        _, top_k, _ = self.filters.constants
        return [self.kind, self.noise, self.levels, int(self.standardize), top_k]

    @property
    def constants(self) -> Tensor:
        """What is real, likewise."""
        temperature, _, top_p = self.filters.constants
        return torch.tensor(
            [
                temperature,
                top_p,
                self.lowest_log_scale,
                self.bound,
                self.scale,
                self.shift,
                self.min_bin,
                self.min_derivative,
            ],
            dtype=torch.float64,
            device="cpu",
        )


class Step(ABC):
    """Makes n features of each sample from their noise, or y, and their parameters.

    Attributes:
        noise: N, numbers that one feature is made from.
        is_flow: whether it is invertible and so has a slope.
    """

    is_flow: ClassVar[bool] = False

    @property
    @abstractmethod
    def parameters(self) -> int | None:
        """P, or None where it takes any number."""

    @property
    @abstractmethod
    def noise(self) -> int:
        """N."""

    @property
    @abstractmethod
    def kernel(self) -> KernelStep | None:
        """Itself as the kernels take it; None where they do not know it."""

    @abstractmethod
    def make(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features (B, n) and of a flow log |dx/dy|, (B,), of (B, n, P) and (B, n, N)."""

    def seeded_noise(
        self, batch: int, features: int, seed: Tensor, dtype: torch.dtype
    ) -> SeededNoise:
        """Return the noise (B, D, N) that a seed stands for.

        Raises:
            ValueError: the step has none of its own: a flow's is y, of any distribution.
        """
        raise ValueError(
            f"noise must be given: step {type(self).__name__} does not say of what distribution"
        )

    def encode(self, x: Tensor) -> Tensor:
        """Return features as the network sees them."""
        return x


@dataclass(frozen=True)
class Draw(Step):
    r"""Draws each feature from its conditional.

    .. math:: x_d = q(u_d; \theta_d, \tau) \sim p(\cdot \mid \theta_d)

    where q maps the conditional's noise u to a value, of a uniform by inverting the cumulative
    distribution.

    Attributes:
        conditional: the distribution.
        temperature: divides logits and multiplies scales; 0 leaves no chance.
        top_k: of categories, draw among so many likeliest alone.
        top_p: likewise among the likeliest that together have this probability.

    Shapes:
        `make` takes theta (B, n, P) and u (B, n, N); it returns (B, n), in the dtype of theta.

    Gradients:
        None of a sampler: it runs without.

    Raises:
        ValueError: an option is out of its range, or leaves out values that are no categories;
            names it.
    """

    conditional: Conditional
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        is_categorical = isinstance(self.conditional, CategoricalConditional)
        self._filters.check(is_categorical, type(self.conditional).__name__)

    @property
    def _filters(self) -> Filters:
        return Filters(self.temperature, self.top_k, self.top_p)

    @property
    def parameters(self) -> int:
        return self.conditional.parameters_per_feature

    @property
    def noise(self) -> int:
        return len(self.conditional.noise_kinds)

    @cached_property
    def kernel(self) -> KernelStep | None:
        conditional = self.conditional
        if type(conditional) not in _CONDITIONALS:
            return None

        levels = getattr(conditional, "levels", getattr(conditional, "categories", 0))
        encoding = {"scale": 2 / (levels - 1), "shift": -1.0} if levels else {}
        return KernelStep(
            _CONDITIONALS.index(type(conditional)),
            self.noise,
            levels,
            filters=self._filters,
            lowest_log_scale=lowest_log_scale(levels) if levels else 0.0,
            **encoding,
        )

    def make(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        x = self._filters.pick(self.conditional.pick, parameters, noise)
        return x.to(parameters.dtype), None

    def seeded_noise(
        self, batch: int, features: int, seed: Tensor, dtype: torch.dtype
    ) -> SeededNoise:
        draw, N = self.conditional.draw_noise, self.noise
        return SeededNoise(seed, draw, N, range(batch), range(features), dtype)

    def encode(self, x: Tensor) -> Tensor:
        return self.conditional.encode(x)


@dataclass(frozen=True)
class AffineInverse(Step):
    r"""Solves :math:`y = (x - \mu) e^{-\alpha}` or :math:`y = e^\alpha x + \mu`.

    Parameters are u and mu, alpha = bound * tanh(u / bound).

    Attributes:
        bound: of alpha.
        standardize: the first of the two.
        impl: of `ops.affine_coupling`.

    Shapes:
        `make` takes parameters (B, n, 2) and y (B, n, 1); it returns x (B, n) and log |dx/dy| (B,),
        the sum over n features of alpha, or of -alpha.

    Precision, Gradients:
        As of `ops.affine_coupling`; a sampler runs without gradients.

    References:
        Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017,
        eq. 3 and 5.
    """

    bound: float
    standardize: bool = True
    impl: str = field(default="auto", compare=False)

    is_flow: ClassVar[bool] = True
    parameters: ClassVar[int] = 2
    noise: ClassVar[int] = 1

    @cached_property
    def kernel(self) -> KernelStep:
        return KernelStep(_AFFINE, 1, standardize=self.standardize, bound=self.bound)

    def make(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = parameters.unbind(-1)
        return affine_coupling(
            noise[..., 0],
            log_scale,
            shift,
            scale_map="tanh",
            bound=self.bound,
            inverse=not self.standardize,
            impl=self.impl,
        )


@dataclass(frozen=True)
class SplineInverse(Step):
    r"""Solves :math:`y = \text{spline}(x)` of `ops.rational_quadratic_spline` with linear tails.

    In the bin that holds y, x is the root of a quadratic; beyond the bound, x = y.

    Attributes:
        bins: K; parameters are 3K - 1.
        bound: of the spline.
        impl: of the op.

    Shapes:
        `make` takes parameters (B, n, 3K - 1) and y (B, n, 1); it returns x (B, n) and
        log |dx/dy| (B,), the sum over n features.

    Precision, Gradients:
        As of the op; a sampler runs without gradients.

    References:
        Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows", 2019, equations 6 to 8.
    """

    bins: int
    bound: float
    impl: str = field(default="auto", compare=False)

    is_flow: ClassVar[bool] = True
    noise: ClassVar[int] = 1

    @property
    def parameters(self) -> int:
        return 3 * self.bins - 1

    @cached_property
    def kernel(self) -> KernelStep:
        # The least share and slope are the op's defaults.
        return KernelStep(
            _SPLINE, 1, self.bins, bound=self.bound, min_bin=1e-3, min_derivative=1e-3
        )

    def make(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic_spline(
            noise[..., 0], parameters, bound=self.bound, inverse=True, impl=self.impl
        )
