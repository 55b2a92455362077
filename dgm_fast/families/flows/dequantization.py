r"""From integer levels to real values and to the real line, with every term of the likelihood.

A density p(v) of real values says of an integer x, which stands for v in [x, x + 1),

.. math:: \log P(x) = \log \int_0^1 p(x + u)\, du
          \ge \mathbb{E}_{q(u|x)} \left[\log p(x + u) - \log q(u \mid x)\right]

A dequantization draws u and returns v = x + u with log q. Its bound is tight where q is the
posterior p(u|x): the uniform q is the classical choice, a flow learns a better one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast._core.random import draw_seed
from dgm_fast.families.flows.chain import Chain, no_change
from dgm_fast.families.flows.conditioners import ConvNet
from dgm_fast.families.flows.multiscale import Squeeze
from dgm_fast.layers import AffineCoupling
from dgm_fast.ops import philox_normal, philox_uniform

__all__ = ["LogitTransform", "Scaling", "UniformDequantization", "VariationalDequantization"]

# The largest float32 below one: noise that rounds up would leave its cell.
_BELOW_ONE = 1 - 2**-24


class UniformDequantization(nn.Module):
    r"""Add uniform noise, v = x + u with u from [0, 1): log q = 0.

    References:
        Theis, van den Oord, Bethge, "A note on the evaluation of generative models", 2016,
        sec. 3.1.
    """

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return v (B, *E) and log q(u | x), (B,), zeros."""
        seed = draw_seed(x.device, generator)
        u = philox_uniform(x.shape, seed=seed, dtype=x.dtype, device=x.device)
        return x + u, no_change(x)


class VariationalDequantization(nn.Module):
    r"""Add noise of a density learned by a flow that sees the image.

    .. math:: u = \sigma(g(\epsilon; x)), \quad \epsilon \sim N(0, I), \quad
              \log q(u \mid x) = \log N(\epsilon) - \log\left|\det \frac{du}{d\epsilon}\right|

    The flow g is of couplings between the two colours of a checkerboard, on 2 x 2 blocks of pixels
    as channels; their networks also see the image, scaled to [-1, 1]. The paper's are deeper and
    have attention.

    Arguments:
        event_shape: (C, H, W) with even H and W.
        levels: of x.
        hidden: channels of the couplings' networks.
        couplings: number of couplings.
        reversible: as in `Chain`.
        impl: of the ops.

    Raises:
        ValueError: H or W is odd.

    References:
        Ho, Chen, Srinivas, Duan, Abbeel, "Flow++: Improving Flow-Based Generative Models with
        Variational Dequantization and Architecture Design", 2019, sec. 3.1.
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        levels: int,
        *,
        hidden: int = 32,
        couplings: int = 4,
        reversible: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        C, H, W = event_shape
        if H % 2 or W % 2:
            raise ValueError(f"event_shape must have even H and W; got {tuple(event_shape)}")

        self.levels = levels
        self.squeeze = Squeeze("checkerboard")
        steps = [
            AffineCoupling(
                ConvNet(2 * C, 4 * C, hidden, context_features=4 * C, context_image=True),
                kept=2 * C,
                part=("last", "first")[i % 2],
                scale_map="tanh",
                bound=3.0,
                impl=impl,
            )
            for i in range(couplings)
        ]
        self.transform = Chain(steps, reversible=reversible)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return v (B, C, H, W) and log q(u | x), (B,), in nats."""
        B, C, H, W = x.shape
        seed = draw_seed(x.device, generator)
        shape = B, 4 * C, H // 2, W // 2
        return self.dequantize(x, philox_normal(shape, seed=seed, dtype=x.dtype, device=x.device))

    def dequantize(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return v and log q(u | x) for given normal noise (B, 4 C, H / 2, W / 2)."""
        image, _ = self.squeeze(x * (2 / (self.levels - 1)) - 1)
        a, log_det = self.transform(noise, image)

        log_q = -0.5 * (noise.square() + math.log(2 * math.pi)).flatten(1).sum(1) - log_det
        # The sigmoid's log-derivative, in the form that neither tail cancels in.
        log_q = log_q + (F.softplus(a) + F.softplus(-a)).flatten(1).sum(1)
        u, _ = self.squeeze.inverse(torch.sigmoid(a))
        return x + u.clamp(max=_BELOW_ONE), log_q


class Scaling(nn.Module):
    """Map values in [0, levels] to [-1, 1]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        log_det = math.prod(x.shape[1:]) * math.log(2 / self.levels)
        return x * (2 / self.levels) - 1, no_change(x) + log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        log_det = math.prod(y.shape[1:]) * math.log(self.levels / 2)
        return (y + 1) * (self.levels / 2), no_change(y) + log_det

    def extra_repr(self) -> str:
        """Show the number of levels."""
        return f"levels={self.levels}"


class LogitTransform(nn.Module):
    r"""Map values in [0, levels] to the real line.

    .. math:: y = \log p - \log(1 - p), \quad p = \alpha + (1 - 2 \alpha) x / \mathrm{levels}, \quad
              \log \frac{dy}{dx} = \log \frac{1 - 2 \alpha}{\mathrm{levels}} - \log p - \log(1 - p)

    Arguments:
        alpha: keeps p off 0 and 1; the smaller, the longer the tails of y.
        levels: upper end of the values, 1 for data in [0, 1].

    Precision:
        1 - p is computed from levels - x, so that the upper end is as exact as the lower one.

    Raises:
        ValueError: `alpha` is not in (0, 1/2).

    References:
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017, sec. 4.1.
        Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017,
        appendix D, for the two-sided form.
    """

    def __init__(self, alpha: float, levels: int = 1) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must be in (0, 1/2); got {alpha}")
        self.alpha = alpha
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        slope = (1 - 2 * self.alpha) / self.levels
        log_p = torch.log(self.alpha + slope * x)
        log_rest = torch.log(self.alpha + slope * (self.levels - x))
        log_det = (math.log(slope) - log_p - log_rest).flatten(1).sum(1)
        return log_p - log_rest, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        slope = (1 - 2 * self.alpha) / self.levels
        log_det = (-F.softplus(y) - F.softplus(-y) - math.log(slope)).flatten(1).sum(1)
        return (torch.sigmoid(y) - self.alpha) / slope, log_det

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"alpha={self.alpha}, levels={self.levels}"
