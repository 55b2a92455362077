"""Activation normalization: a scale and a shift a channel, initialised from the first batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dgm_fast.ops import actnorm, actnorm_statistics

__all__ = ["ActNorm"]

# A channel that hardly varies over one batch is not blown up by more than this much.
_LARGEST_LOG_SCALE = 5.0


class ActNorm(nn.Module):
    r"""Shift and scale each channel; the first batch in training mode comes out normalised.

    .. math:: y_c = (x_c + t_c)\, e^{s_c}, \quad \log|\det| = (\text{elements of a channel})
              \sum_c s_c

    The first forward pass in training mode sets s and t so that its output has mean 0 and
    variance 1 in every channel, over the batches of all processes where torch.distributed is
    initialised. Whether that has happened is state of Python, so no step waits for a GPU or
    breaks a graph; a buffer carries it through checkpoints.

    Arguments:
        channels: C.
        impl: of `ops.actnorm`.

    Shapes:
        x (B, C, *E) -> y (B, C, *E), log_det (B,).

    Precision:
        Statistics are those of `ops.actnorm_statistics`, merged over processes in float64; log_det
        is in nats.

    Raises:
        ValueError: x does not have C channels.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, sec. 3.1.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import ActNorm
        >>> y, _ = ActNorm(3)(5 + 2 * torch.randn(100, 3))
        >>> bool(y.mean(0).abs().max() < 1e-5)
        True
    """

    initialized: Tensor

    def __init__(self, channels: int, *, impl: str = "auto") -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1; got {channels}")

        self.channels = channels
        self.impl = impl
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._awaits_batch = True

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        self.initialize(x)
        return actnorm(x, self.log_scale, self.shift, impl=self.impl)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        self._check(y)
        return actnorm(y, self.log_scale, self.shift, inverse=True, impl=self.impl)

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ValueError(f"x must have shape (B, {self.channels}, *); got {tuple(x.shape)}")

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set scale and shift by a batch, unless that was done or the layer is not in training."""
        self._check(x)
        if not (self._awaits_batch and self.training):
            return
        # A process without rows must still take part in the sum over all.
        if x.numel() == 0 and not _is_distributed():
            return

        mean, std = _statistics_of_all_processes(x, self.impl)
        log_scale = (-std.log()).clamp(max=_LARGEST_LOG_SCALE)
        found = log_scale, -mean
        for parameter, value in zip((self.log_scale, self.shift), found, strict=True):
            # A copy of another layer's buffers may know more than this layer's Python state.
            known = torch.where(self.initialized, parameter, value.to(parameter.dtype))
            parameter.copy_(known)

        self.initialized.fill_(True)
        self._awaits_batch = False

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        saved = state_dict.get(f"{prefix}initialized")
        if saved is not None and saved.device.type != "meta":
            self._awaits_batch = not bool(saved)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return f"{self.channels}"


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _statistics_of_all_processes(x: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel (dim 1), in float64."""
    mean, squares, count = (each.double() for each in actnorm_statistics(x, impl=impl))
    if not _is_distributed():
        return mean, (squares / count).sqrt()

    # The mean of all first, so that each process' deviations from it cancel nothing.
    sums = torch.cat([count * mean, count[None]])
    dist.all_reduce(sums)
    mean_of_all = sums[:-1] / sums[-1]
    squares = squares + count * (mean - mean_of_all).square()
    dist.all_reduce(squares)
    return mean_of_all, (squares / sums[-1]).sqrt()
