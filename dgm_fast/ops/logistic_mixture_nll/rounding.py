"""What roundings of `logistic_mixture_nll` are relative to, for error budgets.

With e_k the exponents of a pixel's components, r their softmax and w that of the logits l,

    ln p     = logsumexp e - logsumexp l
    d ln p   = sum_k r_k de_k - sum_k w_k dl_k
    d^2 ln p = sum_k r_k (d^2 e_k + (de_k)^2) - (sum_k r_k de_k)^2
               - sum_k w_k (dl_k)^2 + (sum_k w_k dl_k)^2

With A_k the sum of absolute terms of e_k, an error of u A_k in it moves ln p by u r_k A_k, and r_k
itself by u r_k (A_k + sum_j r_j A_j).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core.rows import as_rows
from dgm_fast.ops.logistic_mixture_nll.reference import (
    EDGE,
    HALF_BIN,
    MIN_LOG_SCALE,
    log_bins_of,
    split_params,
)

_UNIT = 2.0**-24
# Shares below the smallest normal number may count as zero, whatever they multiply.
_FLUSHED = 2.0**-126 / _UNIT


class _Bins(NamedTuple):
    """Each component's mixture of bins at a pixel, (B, C, K, *), in float64.

    Attributes:
        data: x, (B, C, 1, *).
        logits: (B, K, *).
        means: with what the coefficients add.
        log_scales: at least the least one.
        inverse: of the scales.
        reach: the sum of the absolute terms of an end, in scales from the mean.
        ends: upper and lower end, each as its logarithm of a sigmoid takes it.
    """

    data: Tensor
    logits: Tensor
    means: Tensor
    log_scales: Tensor
    inverse: Tensor
    reach: Tensor
    ends: tuple[Tensor, Tensor]


def magnitude(x: Tensor, params: Tensor) -> Tensor:
    """Bound what a rounding is relative to, in the result and in its first two derivatives."""
    fixed = params.detach()
    bins = _bins(x, fixed)
    shares = (bins.logits + log_bins_of(bins.data, bins.means, bins.log_scales).sum(1)).softmax(1)
    value, bounds = _first_order(bins, shares)

    # Gradients of this sum by the leaf are the bounds, and so are those of its gradients.
    step = (params - fixed).nan_to_num()
    linear = (step * bounds).flatten(1).sum(1)
    return as_rows(value).sum(1) + linear + as_rows(_second_order(bins, shares, fixed, step)).sum(1)


def _bins(x: Tensor, params: Tensor) -> _Bins:
    data = x[:, :, None]
    logits, means, log_scales = split_params(data, params)
    absolute = params.clone()
    components = logits.shape[1]
    absolute[:, components:] = absolute[:, components:].abs()
    # The coefficients' tanh grows with them, so this is the sum of a mean's absolute terms.
    _, sizes, _ = split_params(data.abs(), absolute)

    inverse = (-log_scales).exp()
    reach = inverse * (data.abs() + sizes + HALF_BIN)
    upper, lower = (inverse * (sign * (data - means) + HALF_BIN) for sign in (1, -1))
    return _Bins(data, logits, means, log_scales, inverse, reach, (upper, lower))


def _first_order(bins: _Bins, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bounds of the result, (B, 1, *), and of its gradient, in the order of params."""
    logits, inverse, reach = bins.logits, bins.inverse, bins.reach
    far = sum(end.abs() for end in bins.ends)
    of_bin = 4 + 2 * reach + far + bins.log_scales.abs()
    absolutes = 2 + of_bin.sum(1) + logits.abs()
    value = (shares * absolutes).sum(1, keepdim=True)
    of_weights = 2 + (logits.softmax(1) * logits.abs()).sum(1, keepdim=True)

    # Shares all move with the rounding of their sum's logarithm, which the softmax of the logits
    # takes up.
    moved = shares * (1 + absolutes + value) + _FLUSHED
    by_mean = 2 * (moved[:, None] * inverse)  # (B, C, K, *)
    by_log_scale = moved[:, None] * (2 + 2 * far + reach)
    by_logit = moved + logits.softmax(1) * (of_weights + logits.abs() + value)
    slopes = [by_mean, by_log_scale]
    if bins.data.shape[1] == 3:
        red, green, _ = bins.data.abs().unbind(1)
        _, of_green, of_blue = by_mean.unbind(1)
        slopes.append(torch.stack((of_green * red, of_blue * red, of_blue * green), dim=1))

    bounds = torch.cat((by_logit, torch.stack(slopes, dim=2).flatten(1, 3)), dim=1)
    return value + of_weights, bounds


def _second_order(bins: _Bins, shares: Tensor, params: Tensor, step: Tensor) -> Tensor:
    """Return the quadratic form of a step whose Hessian bounds the second derivative, (B, 1, *).

    Each of its terms is one of d^2 ln p in absolute terms, with one factor in it replaced by what
    a rounding moves that by: r_k, de_k, d^2 e_k, w_k.
    """
    logits, components = bins.logits, bins.logits.shape[1]
    on_slopes, on_errors, curved, curved_errors = _steps_of_bins(bins, params, step)
    logit_step, weights = step[:, :components], logits.softmax(1)

    of_bin = sum(reach_of_end + F.logsigmoid(end).abs() for reach_of_end, end in _live(bins))
    absolutes = 4 + (of_bin + bins.log_scales.abs() + 2).sum(1) + 2 * logits.abs()
    absolutes = absolutes + logits.log_softmax(1).abs()
    value = (shares * absolutes).sum(1, keepdim=True)
    moved = shares * (1 + absolutes + value) + _FLUSHED
    of_weights = 2 + (weights * logits.abs()).sum(1, keepdim=True)
    moved_weights = weights * (of_weights + logits.abs() + value) + _FLUSHED

    def mean(by: Tensor, values: Tensor) -> Tensor:
        return (by * values).sum(1, keepdim=True)

    # de_k, which holds the normalisation of the logits, as autograd computes it.
    mean_logit = mean(weights, logit_step)
    exponents, errors = logit_step + mean_logit + on_slopes, on_errors
    mean_exponent = mean(shares, exponents)
    mean_error = mean(moved, exponents) + mean(shares, errors)
    return (
        mean(moved, curved + 0.5 * exponents.square())
        + mean(shares, curved_errors + exponents * errors)
        + mean_exponent * mean_error
        + 0.5 * mean(moved_weights, logit_step.square())
        + mean(moved_weights, logit_step) * (mean_logit + mean_exponent)
    )


def _live(bins: _Bins) -> list[tuple[Tensor, Tensor]]:
    """Return each end, +inf where a bin has none, behind what its rounding moves the bin by."""
    upper, lower = bins.ends
    ends = (
        torch.where(bins.data > EDGE, torch.inf, upper),
        torch.where(bins.data < -EDGE, torch.inf, lower),
    )
    return [(bins.reach * torch.sigmoid(-end), end) for end in ends]


def _steps_of_bins(
    bins: _Bins, params: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what a step does to the bins of a component, (B, K, *).

    That is, in absolute terms and summed over the channels: the first-order change and its
    roundings, the second-order change and its roundings.
    """
    mean, of_mean, bend, of_bend, log_scale = _steps_of_means(bins, params, step)
    (m, s, mm, ms, ss), (of_m, of_s, of_mm, of_ms, of_ss) = _slopes(bins), _errors(bins)

    on_slopes = m * mean + s * log_scale
    on_errors = of_m * mean + m * of_mean + of_s * log_scale
    curved = 0.5 * (mm * mean.square() + ss * log_scale.square() + m * bend)
    curved = curved + ms * mean * log_scale
    errors = 0.5 * (of_mm * mean.square() + of_ss * log_scale.square() + of_m * bend + m * of_bend)
    errors = errors + mm * mean * of_mean + (of_ms * mean + ms * of_mean) * log_scale
    return tuple(each.sum(1) for each in (on_slopes, on_errors, curved, errors))


def _steps_of_means(bins: _Bins, params: Tensor, step: Tensor) -> tuple[Tensor, ...]:
    """Return a step of the means to first order, its roundings, to second, and its roundings.

    The last is that of the log-scales. The coefficients' tanh t has the slope 1 - t^2, a
    difference, and the second derivative -2 t (1 - t^2).
    """
    data, components = bins.data, bins.logits.shape[1]
    shape = (data.shape[1], -1, components)
    given, rest = (each[:, components:].unflatten(1, shape) for each in (params, step))
    log_scale = torch.where(given[:, :, 1] < MIN_LOG_SCALE, 0.0, rest[:, :, 1])
    mean, none = rest[:, :, 0], torch.zeros_like(rest[:, :, 0])
    if data.shape[1] != 3:
        return mean, none, none, none, log_scale

    t = given[:, :, 2].tanh()
    slope, terms = 1 - t.square(), 1 + t.square()
    bends = [2 * t.abs() * each for each in (slope, terms)]
    each = rest[:, :, 2]
    to_mean, of_mean, bend, of_bend = (
        _onto_means(data, values)
        for values in (slope * each, terms * each, *(bent * each.square() for bent in bends))
    )
    return mean + to_mean, of_mean, bend, of_bend, log_scale


def _onto_means(data: Tensor, coefficients: Tensor) -> Tensor:
    red, green, _ = data.abs().unbind(1)
    a, b, c = coefficients.unbind(1)
    return torch.stack((torch.zeros_like(a), a * red, b * red + c * green), dim=1)


@torch.enable_grad()
def _slopes(bins: _Bins) -> tuple[Tensor, ...]:
    """Return a bin's absolute derivatives by m and ln s: m, s, mm, ms, ss."""
    leaves = [each.detach().requires_grad_() for each in (bins.means, bins.log_scales)]
    log_bins = log_bins_of(bins.data.detach(), *leaves)
    first = torch.autograd.grad(log_bins.sum(), leaves, create_graph=True)
    of_mean = torch.autograd.grad(first[0].sum(), leaves, retain_graph=True)
    _, of_log_scale = torch.autograd.grad(first[1].sum(), leaves)
    return tuple(each.detach().abs() for each in (*first, *of_mean, of_log_scale))


def _errors(bins: _Bins) -> tuple[Tensor, ...]:
    r"""Return what roundings of the same five are relative to.

    An end a has a rounding of its reach, which moves a derivative by the next one, and those of the
    terms of each. Its logarithm of a sigmoid has the slope \sigma(-a), whose own is the product
    \sigma(a) (1 - \sigma(a)) of a difference that is exact only once \sigma(a) rounds to 1.
    """
    inverse, reach, shape = bins.inverse, bins.reach, torch.zeros_like(bins.inverse)
    # ln ((1 - e^-d) / d) has as absolute terms of its derivatives by ln d less than 3 and 12.
    of_m, of_s, of_mm, of_ms, of_ss = (shape + terms for terms in (0, 3, 0, 0, 12))
    for _, end in _live(bins):
        s, size = torch.sigmoid(-end), end.abs().nan_to_num(posinf=0.0)
        slope, lost = s * (1 - s), (1 - s) * (s / _UNIT).clamp(max=1)
        of_m = of_m + inverse * (s + reach * slope)
        of_s = of_s + size * s + reach * (s + size * slope)
        bent = slope * (1 + 2 * reach) + lost
        of_mm = of_mm + inverse.square() * bent
        of_ms = of_ms + inverse * (s + 2 * reach * slope + size * (bent + slope))
        of_ss = of_ss + size * (s + 3 * reach * slope) + reach * s + size.square() * bent
    return of_m, of_s, of_mm, of_ms, of_ss
