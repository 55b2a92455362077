"""What densities of images share: hyperparameters, likelihood and sampling pixel by pixel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dgm_fast.distributions import (
    PIXEL_OUTPUTS,
    CategoricalPixels,
    PixelOutput,
    make_pixel_output,
)
from dgm_fast.families import checks
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.sampling import SeededNoise
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.interrupted import keeping
from dgm_fast.sampling.noise import AnyNoise, drawn

__all__ = ["PixelConfig", "PixelModel"]


@dataclass(frozen=True)
class PixelConfig:
    """Hyperparameters that all densities of images have.

    Attributes:
        event_shape: (H, W) or (C, H, W) of an image.
        output: distribution of a value. `bernoulli` and `categorical` order the channels of a pixel
            one after another; `logistic_mixture` (of one channel or three) has PixelCNN++'s way.
        levels: the data are integers 0 .. levels - 1; `bernoulli` has 2 whatever this says.
        components: K of `logistic_mixture`.
        flip: model the images upside down, rows from the bottom to the top, so that pixels given
            at the bottom are continued upwards: a model can complete only what comes later in its
            own order.
        dropout: probability of dropping a hidden channel of a pixel in training.
    """

    event_shape: tuple[int, ...] = (28, 28)
    output: Literal["bernoulli", "categorical", "logistic_mixture"] = "bernoulli"
    levels: int = 256
    components: int = 10
    flip: bool = False
    dropout: float = 0.0

    _lowest: ClassVar[dict[str, int]] = {"levels": 2, "components": 1}
    _odd: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        # Lists come from JSON, integers of other kinds from NumPy.
        object.__setattr__(self, "event_shape", tuple(map(int, self.event_shape)))

        for name, low in self._lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}; got {getattr(self, name)}")
        for name in self._odd:
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd; got {getattr(self, name)}")
        if len(self.event_shape) not in (2, 3) or min(self.event_shape) < 1:
            raise ValueError(
                f"event_shape must be (H, W) or (C, H, W), all positive; got {self.event_shape}"
            )
        if self.output not in PIXEL_OUTPUTS:
            raise ValueError(
                f"output must be one of {', '.join(PIXEL_OUTPUTS)}; got {self.output!r}"
            )
        if self.output == "logistic_mixture" and self.image_shape[0] not in (1, 3):
            raise ValueError(
                f"output must not be logistic_mixture for {self.image_shape[0]} channels; "
                f"it has one or three"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (1, *self.event_shape)[-3:]

    def make_output(self, impl: str = "auto") -> PixelOutput:
        """Make the output distribution."""
        channels = self.image_shape[0]
        return make_pixel_output(self.output, channels, self.levels, self.components, impl)


class PixelModel(Pretrained, nn.Module, ABC):
    r"""A density of images that factors in raster order, by the rows and, inside, the columns.

    .. math:: \log p(x \mid c) = \sum_{i=1}^{H W} \log p(x_i \mid x_1, \dots, x_{i-1}, c)

    A subclass builds its layers in `_build`, runs them in `_network` and draws images in `_draw`.

    Arguments:
        config: hyperparameters.
        impl: implementation of the ops; the state_dict does not depend on it.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, *event_shape), context (B,) int64 labels of a class-conditional model.

    Precision:
        Likelihoods are in nats and at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for every parameter; images are data. None of `sample`.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value or label is outside its range.
    """

    def __init__(
        self,
        config: PixelConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.impl = config, impl
        self.event_shape = config.event_shape
        self.classes = getattr(config, "classes", 0)
        self.output = config.make_output(impl)
        self.levels = self.output.levels

        with torch.get_default_device() if device is None else torch.device(device):
            self._build(config, impl)
        self.to(dtype)

    @abstractmethod
    def _build(self, config: Any, impl: str) -> None:
        """Make the layers."""

    @abstractmethod
    def _network(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Return the parameters (B, P, H, W) from images (B, C, H, W) in [-1, 1]."""

    @abstractmethod
    def _draw(
        self,
        images: Tensor,
        known: Tensor,
        label: Tensor | None,
        noise: AnyNoise,
        filters: Filters,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        """Draw in images (n, C, H, W) the pixels that are not `known` (n, H, W), piece by piece.

        Rows and noise (n, D, N) lie in the order in which they are drawn.
        """

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (B, P, H, W) of every pixel's distribution."""
        return self._run(self._images("x", x), checks.some_labels(context, self.classes, len(x)))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-likelihood of x (B, *event_shape), (B,), in nats."""
        images = self._images("x", x)
        label = checks.some_labels(context, self.classes, len(x))
        return self.output.log_prob(self._run(images, label), images)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood, a scalar in nats."""
        return -self.log_prob(x, context).mean()

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        given: Tensor | None = None,
        given_mask: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        noise: AnyNoise | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Draw samples pixel by pixel, around the pixels that are given.

        A given pixel comes back as it is. Each other one is drawn from its conditional given all
        pixels before it, those given among them; given ones that come later in the order do not
        influence it, so what a model completes lies after what it is given: the bottom of an image
        or, of a model with `flip`, the top.

        The noise of a sample depends on the seed and its index alone: a sample is the same in a
        batch of any size. A pixel costs one product with every weight; `sampler` is what draws it.
        There is no dropout in it.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: labels, broadcast to `shape`.
            generator: on the model's device; default torch's own.
            given: images whose pixels are kept where `given_mask` says so, broadcast to the result.
            given_mask: True for the pixels that are given, broadcast to (*shape, H, W).
            temperature: divides logits and multiplies scales; below 1, samples are likelier than
                the model has them.
            top_k: of categorical values, draw among so many likeliest alone.
            top_p: likewise among the likeliest that together have this probability.
            noise: (n, D, N) for all n samples, as `draw_noise` makes it, or the
                `SeededNoise` of it; default drawn.
            progress: told how much is done and how much there is, some times a second.

        Shapes:
            Returns (*shape, *event_shape), integers 0 .. levels - 1 in the dtype of the parameters.

        Raises:
            SamplingInterrupted: Ctrl-C; it has the samples as far as they were drawn.
        """
        shape = checks.as_shape(shape)
        n = math.prod(shape)
        context = checks.context_rows(context, shape, labels=True)
        label = checks.some_labels(context, self.classes, n)
        images, known = self._given(given, given_mask, shape)
        if noise is None:
            noise = self._seeded(n, generator)
        elif len(noise.shape) != 3 or noise.shape[:2] != (n, self._features):
            expected = f"(n, D, N) with n = {n} and D = {self._features}"
            raise ValueError(f"noise must have shape {expected}; got {tuple(noise.shape)}")
        filters = Filters(temperature, top_k, top_p)
        filters.check(isinstance(self.output, CategoricalPixels), type(self.output).__name__)

        if self.config.flip:
            rows = drawn(noise).unflatten(1, (self.config.image_shape[1], -1))
            noise = self._in_order(rows, 1).flatten(1, 2)
        images = self._in_order(images, 2)

        def made() -> Tensor:
            return self._in_order(images, 2).reshape(*shape, *self.event_shape)

        with keeping(made):
            self._draw(
                images,
                self._in_order(known, 1),
                label,
                noise,
                filters,
                progress,
            )
        return made()

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (n, D, N) that n samples are made from."""
        return self._seeded(n, generator).tensor()

    def _seeded(self, n: int, generator: torch.Generator | None) -> SeededNoise:
        weight, draw = next(self.parameters()), self.output.draw_noise
        shape = n, self._features, self.output.uniforms
        return SeededNoise.from_generator(generator, draw, shape, weight.device, weight.dtype)

    @property
    def _features(self) -> int:
        """D: how many steps an image is drawn in."""
        return math.prod(self.config.image_shape[1:]) * self.output.ordered_channels

    def _in_order(self, x: Tensor, dim: int) -> Tensor:
        """Return x with its rows, a dim, in the order in which they are drawn, or back again."""
        return x.flip(dim) if self.config.flip else x

    def _run(self, images: Tensor, label: Tensor | None) -> Tensor:
        """Return the parameters (B, P, H, W) from images (B, C, H, W) of levels."""
        x = self.output.encode(images)
        if self.config.flip:
            x = x.flip(-2)
        # oneDNN and cuDNN convolve with the channels last, and pixels' parameters lie together.
        parameters = self._network(x.contiguous(memory_format=torch.channels_last), label)
        return parameters.flip(-2) if self.config.flip else parameters

    def _images(self, name: str, x: Tensor) -> Tensor:
        """Check values (B, *event_shape) and return them as (B, C, H, W) floats."""
        checks.check_event(name, x, self.event_shape)
        checks.check_integers(name, x, self.levels - 1)
        return x.to(next(self.parameters()).dtype).view(len(x), *self.config.image_shape)

    def _given(
        self, given: Tensor | None, mask: Tensor | None, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the images (n, C, H, W) to begin with, and which pixels (n, H, W) they give."""
        n, (C, H, W) = math.prod(shape), self.config.image_shape
        weight = next(self.parameters())
        if (given is None) != (mask is None):
            missing = "given" if given is None else "given_mask"
            raise ValueError(f"{missing} must not be None: pixels are given by values and a mask")
        if given is None:
            none = torch.zeros(n, H, W, dtype=torch.bool, device=weight.device)
            return weight.new_zeros(n, C, H, W), none
        if mask.dtype is not torch.bool:
            raise TypeError(f"given_mask must be bool; got {mask.dtype}")

        given = _broadcast("given", given, (*shape, *self.event_shape))
        mask = _broadcast("given_mask", mask, (*shape, H, W)).reshape(n, H, W)
        # What is not given may hold anything.
        images = given.reshape(n, C, H, W).to(weight.dtype).where(mask[:, None], 0)
        checks.check_integers("given", images, self.levels - 1)
        return images, mask

    def extra_repr(self) -> str:
        return str(self.config)


def _broadcast(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return x.expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must have a shape that broadcasts to {shape}; got {tuple(x.shape)}"
        ) from error
