r"""Noise schedules of diffusion models, and what follows from them in closed form.

A schedule is two tables: :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` for t = 0 .. T - 1, from
little noise to nearly nothing else; the papers count the same times from 1 to T, their x_0 is the
data. Everything else, the posterior of a step and the weights of the variational bound, follows
from the tables. They are made in float64 and rounded to float32 first, and whatever follows is
made of the rounded tables: so the kernels, which read float32, and the bound mean one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast import ops
from dgm_fast._core.schedule import check_target

__all__ = [
    "Posterior",
    "Schedule",
    "cosine_betas",
    "draw_times",
    "gaussian_posterior",
    "linear_betas",
    "log_snr_betas",
    "times_visited",
]

# Keeps the last steps from destroying everything at once (Nichol and Dhariwal, 2021, section 3.2).
_LARGEST_BETA = 0.999


def linear_betas(timesteps: int) -> Tensor:
    r"""Return variances that grow linearly, (T,), float64.

    .. math:: \beta_t = \frac{1000}{T} \left(10^{-4} + (0.02 - 10^{-4}) \frac{t}{T - 1}\right)

    The paper's own for T = 1000; the factor keeps the total noise for other T. At most 0.999.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, section 4.
    """
    betas = torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64) * (1000 / timesteps)
    return betas.clamp(max=_LARGEST_BETA)


def cosine_betas(timesteps: int) -> Tensor:
    r"""Return the variances of a signal that falls like a squared cosine, (T,), float64.

    .. math:: \beta_t = 1 - \frac{f(t + 1)}{f(t)}, \quad
              f(t) = \cos^2 \left(\frac{t / T + 0.008}{1.008} \cdot \frac{\pi}{2}\right)

    At most 0.999.

    References:
        Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, equation 17.
    """
    place = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    signal = torch.cos((place + 0.008) / 1.008 * (math.pi / 2)) ** 2
    return (1 - signal[1:] / signal[:-1]).clamp(max=_LARGEST_BETA)


def log_snr_betas(timesteps: int, first: float, last: float) -> Tensor:
    r"""Return the variances of a log signal-to-noise ratio that falls linearly, (T,), float64.

    .. math:: \alpha_t^2 = \mathrm{sigmoid}(\lambda_t), \quad
              \lambda_t = \text{first} + (\text{last} - \text{first}) \frac{t}{T - 1}

    Every step then removes the same share of what is known, which loses least of the bound to the
    finite number of steps: on digits of 17 grey levels as much at T = 250 as `cosine` at 1000.

    Arguments:
        timesteps: T.
        first: log signal-to-noise ratio at the first time.
        last: that at the last time, -5 or less for L_T to be small.

    References:
        Kingma, Salimans, Poole, Ho, "Variational Diffusion Models", 2021, appendix H.
    """
    log_signal = F.logsigmoid(torch.linspace(first, last, timesteps, dtype=torch.float64))
    return -torch.expm1(torch.diff(log_signal, prepend=log_signal.new_zeros(1)))


def draw_times(count: int, timesteps: int, how: str, seed: Tensor, stream: int) -> Tensor:
    """Draw times in 0 .. timesteps - 1, each uniform by itself, (count,) int64.

    `stratified` spreads them evenly from a common random start, so that a batch sees early and late
    times in fixed shares; `uniform` draws them independently.

    References:
        Kingma, Salimans, Poole, Ho, 2021, appendix I.1.
    """
    rows = 1 if how == "stratified" else count
    u = ops.philox_uniform((rows, 1), seed=seed, stream=stream, dtype=torch.float32)[:, 0]
    if how == "stratified":
        u = (u + torch.arange(count, device=u.device) / max(1, count)) % 1

    # Rounding may carry the product up to timesteps itself.
    return (u * timesteps).long().clamp(max=timesteps - 1)


class Posterior(NamedTuple):
    """Hold the Gaussian q(x_s | x_t, x_0): its mean's two coefficients and its variance."""

    of_x_t: Tensor
    of_x0: Tensor
    variance: Tensor


def gaussian_posterior(
    alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> Posterior:
    r"""Return the closed form of q(x_s | x_t, x_0), s before t, from the tables' values.

    .. math:: q(x_s \mid x_t, x_0) \propto q(x_t \mid x_s) \, q(x_s \mid x_0)
              = \mathcal{N}\left(
                \frac{\alpha_{t|s} \sigma_s^2}{\sigma_t^2} x_t
                + \frac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} x_0, \;
                \frac{\sigma_{t|s}^2 \sigma_s^2}{\sigma_t^2}\right)

    with :math:`\alpha_{t|s} = \alpha_t / \alpha_s` and
    :math:`\sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2`, the variance that the steps
    from s to t add. The data themselves are alpha_s = 1, sigma_s = 0.

    Shapes:
        Four tensors that broadcast; the results have their common shape.

    References:
        Ho, Jain, Abbeel, 2020, equations 6 and 7; Kingma, Salimans, Poole, Ho, "Variational
        Diffusion Models", 2021, equations 25 to 29.

    Example:
        >>> import torch
        >>> half = torch.tensor(0.5).sqrt()
        >>> one, none = torch.tensor(1.0), torch.tensor(0.0)
        >>> gaussian_posterior(half, half, one, none)  # the step onto the data themselves
        Posterior(of_x_t=tensor(0.), of_x0=tensor(1.), variance=tensor(0.))
    """
    ratio = alpha_t / alpha_s
    added = sigma_t**2 - ratio**2 * sigma_s**2
    return Posterior(
        ratio * sigma_s**2 / sigma_t**2,
        alpha_s * added / sigma_t**2,
        added * sigma_s**2 / sigma_t**2,
    )


class Schedule(nn.Module):
    r"""Tables of a forward process and of the bound of the reverse one that undoes it.

    The reverse step from t to s = t - 1 is Gaussian around the mean of q(x_s | x_t, x_0) at the
    network's estimate of x_0, with the posterior's variance (`small`) or with the variance that
    the step added (`large`), the two choices of the paper. The closed-form Kullback-Leibler
    divergence between two such Gaussians with the variance ratio r <= 1 is then, for an event of
    D values,

    .. math:: L_t = w_t \lVert x_0 - \hat x_0 \rVert^2 + D c_t, \quad
              c_t = \tfrac12 (r_t - 1 - \log r_t)

    and for `small` :math:`w_t = \tfrac12 (\alpha_s^2 / \sigma_s^2 - \alpha_t^2 / \sigma_t^2)`.

    The tables are buffers that keep float32 whatever becomes of the weights, and no part of the
    state_dict.

    Arguments:
        betas: (T,), the variance that each step adds to a signal of variance one.
        variance: `small` or `large`.
        target: `noise`, `velocity` or `x0`, what a network is trained to predict.

    Attributes:
        alpha: (T,), what is left of the data at time t.
        sigma: (T,), standard deviation of the noise at time t.
        kl_weight: (T,), w_t; at t = 0 that of a Gaussian decoder, :math:`1 / 2 \sigma^2` with
            :math:`\sigma^2` the `decoder_variance`.
        kl_constant: (T,), c_t; at t = 0 that decoder's, :math:`\tfrac12 \log 2 \pi \sigma^2`.
        target_weight: (T,), w_t as the weight of the squared error of the target.
        decoder_variance: (), variance of p(x_0 | x_1) in the paper's counting. With `large` it is
            what the first step adds; `small` would be zero and takes that of the second step, as
            the authors' code does.

    Raises:
        ValueError: betas are not all in (0, 1), or `variance` or `target` is none of those above.

    References:
        Ho, Jain, Abbeel, 2020, section 3.2 and equation 8.

    Example:
        >>> schedule = Schedule(cosine_betas(100))
        >>> bool((schedule.alpha**2 + schedule.sigma**2 - 1).abs().max() < 1e-6)
        True
    """

    alpha: Tensor
    sigma: Tensor
    kl_weight: Tensor
    kl_constant: Tensor
    target_weight: Tensor
    decoder_variance: Tensor

    def __init__(self, betas: Tensor, variance: str = "small", target: str = "noise") -> None:
        super().__init__()
        check_target(target)
        if variance not in ("small", "large"):
            raise ValueError(f"variance must be 'small' or 'large'; got {variance!r}")
        if betas.ndim != 1 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas must be a vector of values in (0, 1); got {betas}")

        # Sums of logarithms keep the small 1 - alpha^2 of the first times exact.
        log_signal = torch.log1p(-betas.double()).cumsum(0)
        alpha = (log_signal / 2).exp().float().double()
        sigma = (-log_signal.expm1()).sqrt().float().double()

        for name, table in _tables(alpha, sigma, variance, target).items():
            self.register_buffer(name, table.float(), persistent=False)

    def __len__(self) -> int:
        return len(self.alpha)

    def prior_kl(self, x0: Tensor) -> Tensor:
        r"""Return L_T, the divergence of q(x_T | x_0) from N(0, I), (B,), in nats.

        .. math:: L_T = \tfrac12 \sum_d (\alpha_T^2 x_{0,d}^2 + \sigma_T^2 - 1 - \log \sigma_T^2)
        """
        alpha, variance = self.alpha[-1], self.sigma[-1] ** 2
        # sigma_T^2 = 1 - alpha_T^2 is near one: log1p keeps the difference of near equals.
        constant = (variance - 1) - torch.log1p(variance - 1)
        return 0.5 * (alpha**2 * x0**2 + constant).flatten(1).sum(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Schedule:
        # `model.bfloat16()` concerns weights: alpha_0 = 0.9999 would become one.
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, table in kept.items():
            if self._buffers[name].dtype != table.dtype:
                self._buffers[name] = table.to(self._buffers[name].device)

        return self


def _tables(alpha: Tensor, sigma: Tensor, variance: str, target: str) -> dict[str, Tensor]:
    """Derive every table of a schedule, in float64."""
    before_alpha = torch.cat([alpha.new_ones(1), alpha[:-1]])
    before_sigma = torch.cat([sigma.new_zeros(1), sigma[:-1]])
    posterior = gaussian_posterior(alpha, sigma, before_alpha, before_sigma)
    added = sigma**2 - (alpha / before_alpha) ** 2 * before_sigma**2

    # Without a second step to take the variance from, there is the first one.
    second = posterior.variance[1:2] if len(alpha) > 1 else added
    chosen = added if variance == "large" else torch.cat([second, posterior.variance[1:]])
    weight = posterior.of_x0**2 / (2 * chosen)
    ratio = posterior.variance[1:] / chosen[1:]
    constant = torch.cat([(2 * math.pi * chosen[:1]).log(), ratio - 1 - ratio.log()]) / 2

    # ||x0 - x0'||^2 in units of the target's squared error.
    of_target = {
        "noise": (sigma / alpha) ** 2,
        "velocity": (sigma / (alpha**2 + sigma**2)) ** 2,
        "x0": torch.ones_like(alpha),
    }
    return {
        "alpha": alpha,
        "sigma": sigma,
        "kl_weight": weight,
        "kl_constant": constant,
        "target_weight": weight * of_target[target],
        "decoder_variance": chosen[0],
    }


def times_visited(timesteps: int, steps: int | None) -> list[int]:
    """Return the times of a sampler of so many steps, default all, from the last down to 0."""
    steps = timesteps if steps is None else steps
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must be in 1 .. timesteps = {timesteps}; got {steps}")
    return torch.linspace(timesteps - 1, 0, steps).round().long().tolist()
