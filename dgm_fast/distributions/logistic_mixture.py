"""Images under a discretized mixture of logistics, as PixelCNN++ puts it out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast._core.rows import as_rows
from dgm_fast.distributions.categories import pick_category
from dgm_fast.distributions.discretized_logistic import DiscretizedLogistic, lowest_log_scale
from dgm_fast.ops import logistic_mixture_nll, philox_uniform
from dgm_fast.ops.logistic_mixture_nll.reference import (
    component_count,
    parameters_of_channel,
    split_params,
)

__all__ = ["LogisticMixture", "logistic_mixture_log_prob"]


@dataclass(frozen=True)
class LogisticMixture:
    r"""Pixels of L values: a mixture of products of logistics over bins of width 2 / (L - 1).

    `ops.logistic_mixture_nll` has the formula and the order of the parameters. A sample takes a
    component of each pixel, and then each channel by its logistic's inverse, given the channels
    before, to the value whose bin that falls into:

    .. math:: x_c = m_{ck} + s_{ck} \ln\frac{u_c}{1 - u_c}

    Sampling is split into `draw_noise` and `pick`, a deterministic function of the noise, so that
    two samplers given the same noise must give the same values.

    Attributes:
        params: (B, K (1 + 2), *) for grey images or (B, K (1 + 3 * 3), *) for colours.
        channels: 1 or 3.
        levels: L; 256, that of the op, has its kernels, other numbers run on plain PyTorch.

    Raises:
        ValueError: `params` has another shape, or `levels` is below 2.

    References:
        Salimans, Karpathy, Chen, Kingma, "PixelCNN++", 2017, section 2.1.

    Example:
        >>> import torch
        >>> from dgm_fast.distributions import LogisticMixture
        >>> mixture = LogisticMixture(torch.zeros(2, 30, 8, 8), channels=3)
        >>> x = mixture.sample(seed=0)
        >>> x.shape, mixture.log_prob(x).shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2]))
    """

    params: Tensor
    channels: int
    levels: int = 256

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3; got {self.channels}")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2; got {self.levels}")

        shape = tuple(self.params.shape)
        if len(shape) < 2 or component_count(self.channels, shape[1]) is None:
            each = f"(1 + {self.channels} * {parameters_of_channel(self.channels)})"
            raise ValueError(f"params must have shape (B, K {each}, *); got {shape}")

    @property
    def components(self) -> int:
        """K."""
        return component_count(self.channels, self.params.shape[1])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-probability of images (B, channels, *) in [-1, 1], in nats, (B,)."""
        return logistic_mixture_log_prob(x, self.params, self.levels)

    def draw_noise(
        self, seed: int | Tensor | None = None, *, sample_offset: int = 0, stream: int = 0
    ) -> Tensor:
        """Draw the uniforms (B, 1 + channels, *) that `seed` stands for: a component's first."""
        samples, _, *pixels = self.params.shape
        where = {"seed": seed, "sample_offset": sample_offset, "stream": stream}
        shape = (samples, 1 + self.channels, *pixels)
        return philox_uniform(shape, dtype=torch.float32, device=self.params.device, **where)

    def pick(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the images that noise stands for, in float32.

        The temperature multiplies the scales and divides the logits; at 0 it leaves the means of
        the heaviest component.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0; got {temperature}")

        params = self.params.float()
        logits, rest = params[:, : self.components], params[:, self.components :]
        component = pick_category(logits, noise[:, 0], temperature, dim=1)[:, None, None, None]
        kinds = parameters_of_channel(self.channels)
        rest = rest.unflatten(1, (self.channels, kinds, self.components))
        index = component.expand(-1, self.channels, kinds, -1, *logits.shape[2:])
        mean, log_scale, *alpha = rest.gather(3, index).squeeze(3).unbind(2)

        scale = temperature * log_scale.clamp(min=lowest_log_scale(self.levels)).exp()
        # Of no width, an infinity is none.
        moved = scale * noise[:, 1:].logit().clamp(-100, 100)
        if self.channels == 1:
            return self._on_grid(mean + moved)

        a, b, c = alpha[0].tanh().unbind(1)
        red = self._on_grid(mean[:, 0] + moved[:, 0])
        green = self._on_grid(mean[:, 1] + a * red + moved[:, 1])
        blue = self._on_grid(mean[:, 2] + b * red + c * green + moved[:, 2])
        return torch.stack((red, green, blue), dim=1)

    def sample(
        self,
        seed: int | Tensor | None = None,
        *,
        temperature: float = 1.0,
        sample_offset: int = 0,
        stream: int = 0,
    ) -> Tensor:
        """Draw one image a sample, (B, channels, *) in -1 ... 1."""
        return self.pick(
            self.draw_noise(seed, sample_offset=sample_offset, stream=stream), temperature
        )

    def _on_grid(self, x: Tensor) -> Tensor:
        half = (self.levels - 1) / 2
        return ((x + 1) * half).round().clamp(0, self.levels - 1) / half - 1


def logistic_mixture_log_prob(
    x: Tensor, params: Tensor, levels: int = 256, *, impl: str = "auto"
) -> Tensor:
    """Return the log-probability of images (B, channels, *) in [-1, 1], in nats, (B,).

    Arguments:
        x: images of `levels` values, evenly spread from -1 to 1.
        params: as `LogisticMixture` has them.
        levels: 256 runs `ops.logistic_mixture_nll`, another number plain PyTorch.
        impl: of the op.

    Precision:
        At least float32.
    """
    if levels == 256:
        return -logistic_mixture_nll(x, params, impl=impl)

    return plain_log_prob(x, params, levels)


def plain_log_prob(x: Tensor, params: Tensor, levels: int) -> Tensor:
    """Return the same for any number of levels, in plain PyTorch."""
    dtype = torch.promote_types(params.dtype, torch.float32)
    x, params = x.to(dtype)[:, :, None], params.to(dtype)
    logits, means, log_scales = split_params(x, params, lowest_log_scale(levels))
    logistic = DiscretizedLogistic(means, log_scales, levels, validate_args=False)
    log_bins = logistic.log_prob(((x + 1) * ((levels - 1) / 2)).round())
    log_p = torch.logsumexp(logits.log_softmax(1) + log_bins.sum(1), dim=1)
    return as_rows(log_p).sum(1)
