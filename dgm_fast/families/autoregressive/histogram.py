"""Histogram: the distribution of each value by itself, the least that a model must beat.

One vector of logits a value, softmax of which is its distribution. `fit` sets them to the logarithm
of smoothed counts, which maximises the likelihood where nothing is smoothed; as parameters they can
also be trained by gradient, or be the start of something else.

References: Laplace, "Essai philosophique sur les probabilites", 1814 (the rule of succession).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dgm_fast._core.random import draw_seed
from dgm_fast.families import checks
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.ops import philox_uniform
from dgm_fast.sampling import filter_logits, pick_token

__all__ = ["Histogram", "HistogramConfig"]


@dataclass(frozen=True)
class HistogramConfig:
    """Hyperparameters of `Histogram`.

    Attributes:
        event_shape: of one event; (T,) of a sequence, (H, W) of an image, () of a single value.
        levels: L, values are 0 .. L - 1.
        shared: whether all values have one distribution, as the tokens of a text do.
    """

    event_shape: tuple[int, ...] = (28, 28)
    levels: int = 256
    shared: bool = False

    def __post_init__(self) -> None:
        # Lists come from JSON, integers of other kinds from NumPy.
        object.__setattr__(self, "event_shape", tuple(map(int, self.event_shape)))
        if any(size < 1 for size in self.event_shape):
            raise ValueError(f"event_shape must hold positive sizes; got {self.event_shape}")
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1; got {self.levels}")


class Histogram(Pretrained, nn.Module):
    r"""A density of independent values.

    .. math:: p(x) = \prod_d p_d(x_d), \qquad
              p_d(k) = \frac{\alpha + \#\{n : x_{nd} = k\}}{L \alpha + N}

    Arguments:
        config: hyperparameters.
        impl: for the sake of other families.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, *event_shape), integers of any dtype; `logits` (D, L), or (1, L) shared.

    Units:
        Log-likelihoods are of a whole event, in nats.

    Precision:
        Likelihoods are at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for the logits; zero, of the loss of the data that `fit` counted,
        where nothing is smoothed. None of `sample`.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value is outside its range.

    Example:
        >>> import torch
        >>> from dgm_fast.families import Histogram, HistogramConfig
        >>> model = Histogram(HistogramConfig(event_shape=(), levels=3))
        >>> _ = model.fit(torch.tensor([0, 1, 1, 1, 1]))
        >>> model.log_prob(torch.arange(3)).exp()  # (1 + count) / (3 + 5)
        tensor([0.2500, 0.6250, 0.1250], grad_fn=<ExpBackward0>)
    """

    family: ClassVar[str] = "histogram"
    config_class: ClassVar[type] = HistogramConfig

    def __init__(
        self,
        config: HistogramConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.impl = config, impl
        self.event_shape, self.levels = config.event_shape, config.levels
        D = 1 if config.shared else math.prod(config.event_shape)
        self.logits = nn.Parameter(torch.zeros(D, config.levels, device=device, dtype=dtype))

    @torch.no_grad()
    def fit(self, x: Tensor, smoothing: float = 1.0) -> Histogram:
        """Count the values of x (N, *event_shape), in the place of any before.

        Arguments:
            x: the data.
            smoothing: alpha, what is added to every count; positive, unless all values occur.

        Returns the model itself.
        """
        if not smoothing >= 0:
            raise ValueError(f"smoothing must be at least 0; got {smoothing}")
        values = self._values(x)
        D, L = self.logits.shape
        place = L * torch.arange(D, device=values.device)
        counts = torch.bincount((values + place).flatten(), minlength=D * L).view(D, L).double()
        if smoothing == 0 and not bool(counts.all()):
            raise ValueError("smoothing must be positive where a value does not occur; got 0")
        smoothed = counts + smoothing
        self.logits.copy_((smoothed / smoothed.sum(1, keepdim=True)).log())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, D, L), the same for every x."""
        return self.logits.expand(len(x), math.prod(self.event_shape), -1)

    def log_prob(self, x: Tensor, context: None = None) -> Tensor:
        """Return the log-likelihood of x (B, *event_shape), (B,), in nats."""
        checks.some_labels(context, 0, len(x))
        values = self._values(x)
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        log_p = self.logits.to(dtype).log_softmax(1).expand(values.shape[1], -1)
        return log_p.expand(len(values), -1, -1).gather(2, values[..., None]).sum((1, 2))

    def loss(self, x: Tensor, context: None = None) -> Tensor:
        """Return the mean negative log-likelihood, a scalar in nats."""
        return -self.log_prob(x, context).mean()

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: None = None,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        noise: Tensor | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Draw events, all values at once.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: None, as this model has no classes.
            generator: on the model's device; default torch's own.
            temperature: divides the logits; 0 leaves the likeliest values alone.
            top_k: draw among so many likeliest values alone.
            top_p: draw among the likeliest values that together have this probability alone.
            noise: (n, D, 1) for all n events, as `draw_noise` makes it; default drawn.
            progress: told once, when all values are there.

        Shapes:
            Returns (*shape, *event_shape), int64.
        """
        shape, D = checks.as_shape(shape), math.prod(self.event_shape)
        checks.some_labels(context, 0, math.prod(shape))
        n = math.prod(shape)
        if noise is None:
            noise = self.draw_noise(n, generator)
        elif noise.shape != (n, D, 1):
            expected, got = (n, D, 1), tuple(noise.shape)
            raise ValueError(f"noise must have shape (n, D, 1) = {expected}; got {got}")
        logits = filter_logits(self.logits, temperature=temperature, top_k=top_k, top_p=top_p)
        logits = logits.expand(n, D, -1).flatten(0, 1)
        x = pick_token(logits, noise.flatten(0, 1))
        if progress is not None:
            progress(D, D)
        return x.view(*shape, *self.event_shape)

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (n, D, 1) that n events are made from."""
        seed = draw_seed(self.logits.device, generator)
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        D = math.prod(self.event_shape)
        return philox_uniform((n, D), seed=seed, dtype=dtype).unsqueeze(-1)

    def _values(self, x: Tensor) -> Tensor:
        """Check what the model is given and return it as (B, D), int64."""
        checks.check_event("x", x, self.event_shape)
        checks.check_integers("x", x, self.levels - 1)
        return x.long().reshape(len(x), math.prod(self.event_shape))

    def extra_repr(self) -> str:
        return str(self.config)
