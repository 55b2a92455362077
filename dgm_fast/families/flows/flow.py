"""A flow: data made real, mapped invertibly to noise of a known density.

    x  --dequantize-->  v  --preprocess-->  y  --transform-->  z ~ base

    log p(x) = log p_base(z) + log |det dz/dv| - log q(v | x)

Every flow of the library is a subclass that builds its transform; all else is here.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dgm_fast._core.checks import check_floating
from dgm_fast._core.random import draw_seed
from dgm_fast.families import checks
from dgm_fast.families.flows.base import BASES
from dgm_fast.families.flows.chain import Chain
from dgm_fast.families.flows.dequantization import (
    LogitTransform,
    Scaling,
    UniformDequantization,
    VariationalDequantization,
)
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.sampling.interrupted import keeping
from dgm_fast.sampling.pieces import wait_for

__all__ = ["Flow", "FlowConfig"]

# Multiply-adds between two looks at the keyboard: tenths of a second of two cores. A GPU makes a
# hundred times as many, and wants many samples at once.
_PIECE, _PIECE_OF_GPU = 1e10, 1e12


@dataclass(frozen=True)
class FlowConfig:
    """Hyperparameters that every flow has.

    Attributes:
        event_shape: of one sample, (D,) or (C, H, W).
        levels: the data are integers 0 .. levels - 1; None, real values.
        classes: of a class-conditional flow, whose context is the labels; 0 for none.
        context_features: width of the context that the transform sees: of the learned embedding
            of a label, or without classes of the context given; 0 for none.
        logit_alpha: where positive, the transform sees the logit of
            alpha + (1 - 2 alpha) x / levels (x itself must be in [0, 1] without levels); with 0 it
            sees integer levels scaled to [-1, 1], and real values as they are.
        base: `normal` or `logistic`.
        dequantization: of integer data, `uniform` noise or, for images with even sides,
            `variational`, noise of a learned density.
        dequantization_hidden: channels of the variational dequantization's networks.
        reversible: train with memory constant in depth, as `Chain` describes.
    """

    event_shape: tuple[int, ...]
    levels: int | None = None
    classes: int = 0
    context_features: int = 0
    logit_alpha: float = 0.0
    base: Literal["normal", "logistic"] = "normal"
    dequantization: Literal["uniform", "variational"] = "uniform"
    dequantization_hidden: int = 32
    reversible: bool = False

    def __post_init__(self) -> None:
        # Lists come from JSON, integers of other kinds from NumPy.
        object.__setattr__(self, "event_shape", tuple(map(int, self.event_shape)))

        if not self.event_shape or min(self.event_shape) < 1:
            raise ValueError(f"event_shape must have positive sizes; got {self.event_shape}")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels must be None or at least 2; got {self.levels}")
        for name in ("classes", "context_features"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.classes and not self.context_features:
            raise ValueError(
                f"context_features must be positive for {self.classes} classes: it is the width "
                f"of a label's embedding; got 0"
            )
        if not 0 <= self.logit_alpha < 0.5:
            raise ValueError(f"logit_alpha must be in [0, 1/2); got {self.logit_alpha}")
        if self.base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}; got {self.base!r}")
        self._check_dequantization()

    def _check_dequantization(self) -> None:
        if self.dequantization not in ("uniform", "variational"):
            raise ValueError(
                f"dequantization must be 'uniform' or 'variational'; got {self.dequantization!r}"
            )
        if self.dequantization_hidden < 1:
            raise ValueError(
                f"dequantization_hidden must be at least 1; got {self.dequantization_hidden}"
            )
        if self.dequantization == "variational":
            if self.levels is None:
                raise ValueError("levels must be given for variational dequantization; got None")
            self.check_image(halvings=1)

    def check_image(self, halvings: int) -> None:
        """Raise ValueError unless events are images whose sides can be halved so many times."""
        if len(self.event_shape) != 3:
            raise ValueError(f"event_shape must be (C, H, W); got {self.event_shape}")
        _, H, W = self.event_shape
        if H % 2**halvings or W % 2**halvings:
            raise ValueError(
                f"event_shape must have H and W divisible by {2**halvings} for what the other "
                f"settings ask: pad the images or take fewer scales; got {self.event_shape}"
            )


class Flow(Pretrained, nn.Module):
    r"""A density that an invertible map and a base density make.

    .. math:: \log p(v) = \log p_{base}(z) + \log\left|\det \frac{dz}{dv}\right|, \quad z = f(v; c)

    Of integer data (`levels`), v is x plus noise in [0, 1), drawn anew at each call, and
    `log_prob` is a lower bound of the discrete log-probability in expectation
    (`dequantization.py`). It is in nats of the discrete data: every term, the scaling's too, is in.

    Arguments:
        config: hyperparameters.
        impl: implementation of the ops; the state_dict does not depend on it.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x, z (B, *event_shape); context (B,) labels, or (B, context_features) floats.

    Precision:
        Likelihoods are in nats and at least float32. Under autocast the conditioners run in low
        precision, x and z and the log-determinants do not.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value is not among the levels.

    References:
        Rezende, Mohamed, "Variational Inference with Normalizing Flows", 2015.
        Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan, "Normalizing Flows for
        Probabilistic Modeling and Inference", 2021.
    """

    config_class: ClassVar[type] = FlowConfig

    def __init__(
        self,
        config: FlowConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.impl = impl
        self.event_shape = config.event_shape
        self.levels = config.levels
        self.classes = config.classes

        with torch.device(torch.get_default_device() if device is None else device):
            embedded = config.classes, config.context_features
            self.embedding = nn.Embedding(*embedded) if config.classes else None
            self.dequantization = self._build_dequantization()
            self.preprocess = self._build_preprocess()
            self.transform = self.build_transform()
            self.base = BASES[config.base]()
        if dtype is not None:
            self.to(dtype)

    @abstractmethod
    def build_transform(self) -> nn.Module:
        """Return the invertible module from preprocessed events to z."""

    def _build_dequantization(self) -> nn.Module | None:
        """Return the dequantization of integer data, or None for real values."""
        config = self.config
        if config.levels is None:
            return None
        if config.dequantization == "uniform":
            return UniformDequantization()
        return VariationalDequantization(
            config.event_shape,
            config.levels,
            hidden=config.dequantization_hidden,
            reversible=config.reversible,
            impl=self.impl,
        )

    def _build_preprocess(self) -> nn.Module:
        """Return the fixed invertible module that scales dequantized values."""
        if self.config.logit_alpha:
            return LogitTransform(self.config.logit_alpha, self.levels or 1)
        return Scaling(self.levels) if self.levels is not None else Chain([])

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map real events to (z, log |det dz/dx|); of integer data, dequantized ones."""
        checks.check_event("x", x, self.event_shape)
        y, log_det = self.preprocess(x.to(self._dtype))
        z, more = self.transform(y, self._context(context, len(x)))
        return z, log_det + more

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise to real events: (x, log |det dx/dz|)."""
        checks.check_event("z", z, self.event_shape)
        y, log_det = self.transform.inverse(z.to(self._dtype), self._context(context, len(z)))
        x, more = self.preprocess.inverse(y)
        return x, log_det + more

    def log_prob(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        r"""Return the log-likelihood of x (B, *event_shape), (B,), in nats.

        Of integer data the bound with S draws of the dequantization noise,
        :math:`\log \frac1S \sum_s p(v_s) / q(v_s | x)`, which grows with S to the log-probability.

        Arguments:
            x: events.
            context: as in the class.
            samples: S; more than one makes S times as much work.
        """
        checks.check_event("x", x, self.event_shape)
        if samples < 1:
            raise ValueError(f"samples must be at least 1; got {samples}")
        if self.dequantization is None:
            return self._density(x, context)

        checks.check_integers("x", x, self.levels - 1)
        x = x.to(self._dtype).repeat_interleave(samples, 0)
        context = None if context is None else context.repeat_interleave(samples, 0)
        v, log_q = self.dequantization(x)
        bound = (self._density(v, context) - log_q).unflatten(0, (-1, samples))
        return bound.logsumexp(1) - math.log(samples)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood, a scalar in nats."""
        return -self.log_prob(x, context).mean()

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        *,
        noise: Tensor | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Draw samples; integer data come as whole levels.

        Many are made in pieces, of so many that the model takes tenths of a second for one. The
        noise of a sample depends on the seed and its index alone: up to rounding, it is the same in
        a batch of any size.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: labels or features whose leading dims broadcast to `shape`.
            generator: on the model's device; default torch's own.
            temperature: scale of the base noise; below 1 samples are more typical, less varied.
            noise: z at temperature 1, (*shape, *event_shape), as `draw_noise` makes it; default
                drawn.
            progress: told the number of samples done and that of all, after each piece.

        Shapes:
            Returns (*shape, *event_shape), dtype and device of the parameters.

        Raises:
            SamplingInterrupted: Ctrl-C; it has the samples as far as they were drawn.
        """
        shape = checks.as_shape(shape)
        context = checks.context_rows(context, shape, labels=self.classes > 0)
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative; got {temperature}")
        if noise is None:
            noise = self.draw_noise(shape, generator)
        else:
            self._check_noise(noise, shape)
        n, piece = math.prod(shape), self._samples_of_a_piece()
        noise = noise.to(self._device, self._dtype).reshape(n, *self.event_shape)

        x = torch.zeros_like(noise)
        with keeping(lambda: x.view(*shape, *self.event_shape)):
            # An empty batch is one piece too, whose context is checked.
            for first in range(0, max(n, 1), piece):
                at = slice(first, first + piece)
                some = None if context is None else context[at]
                x[at] = self._sampled(temperature * noise[at], some)
                if progress is not None:
                    wait_for(self._device)
                    progress(min(at.stop, n), n)
        return x.view(*shape, *self.event_shape)

    def draw_noise(
        self, shape: int | Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the z (*shape, *event_shape) that samples are made from at temperature 1."""
        shape = checks.as_shape(shape)
        seed = draw_seed(self._device, generator)
        z = self.base.sample((math.prod(shape), *self.event_shape), seed, self._dtype)
        return z.view(*shape, *self.event_shape)

    def _check_noise(self, noise: Tensor, shape: tuple[int, ...]) -> None:
        check_floating("noise", noise)
        expected = (*shape, *self.event_shape)
        if tuple(noise.shape) != expected:
            got = tuple(noise.shape)
            raise ValueError(
                f"noise must have shape (*shape, *event_shape) = {expected}; got {got}"
            )

    def _sampled(self, z: Tensor, context: Tensor | None) -> Tensor:
        x, _ = self.inverse(z, context)
        return x if self.levels is None else x.floor().clamp(0, self.levels - 1)

    def _samples_of_a_piece(self) -> int:
        """Return how many samples go between two looks at the keyboard, a power of two."""
        # A convolution uses its weights at every pixel, where images are not squeezed.
        pixels = math.prod(self.event_shape[1:])
        work = sum(
            parameter.numel() * (pixels if isinstance(module, nn.Conv2d) else 1)
            for module in self.modules()
            for parameter in module.parameters(recurse=False)
        )
        most = _PIECE_OF_GPU if self._device.type == "cuda" else _PIECE
        return 2 ** max(0, math.floor(math.log2(most / max(work, 1))))

    def _density(self, v: Tensor, context: Tensor | None) -> Tensor:
        z, log_det = self(v, context)
        return self.base.log_prob(z) + log_det

    def _context(self, context: Tensor | None, B: int) -> Tensor | None:
        """Return what the transform's networks see: (B, context_features), or None."""
        C = self.config.context_features
        if (context is None) != (C == 0):
            kind = "labels (B,)" if self.classes else f"(B, context_features = {C})"
            wanted = kind if C else "None"
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context must be {wanted}; got {got}")
        if context is None:
            return None

        if self.embedding is not None:
            checks.check_labels(context, self.classes, B)
            return self.embedding(context)
        if tuple(context.shape) != (B, C):
            raise ValueError(f"context must have shape {(B, C)}; got {tuple(context.shape)}")
        return context.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def extra_repr(self) -> str:
        """Show the configuration."""
        return str(self.config)
