"""What rounding does to a spline: the budgets that the contract holds every implementation to.

A spline in float32 is, to first order, an exact spline of knots and slopes a little off. A knot is
a sum of shares of 2 `bound`, so it errs by units of rounding of 2 `bound`, however thin its bin;
a slope errs by units of itself. What that does to a result is the sum, over the coordinates and
slopes of a bin's two ends, of |derivative of the result| times such a unit. On top comes what
evaluating a formula rounds: all are sums of quotients of positive sums, so it is units of their
absolute terms. A result that is a gradient has second derivatives in the first part, and the
terms that `_absolute_terms` lists in the second.

`terms` counts the units of u = 2^-24. A knot passes at most 2 K additions (its own shares and all),
two exponentials' 3, the rounding of their arguments (|a| e^-a each, at most ln K together; three
times 3.5 where they are softly clipped), and 10 operations more; K + 2 terms cover 2 ln K.
Slopes and formulas take fewer. A gradient of parameters that samples share is a sum over samples,
each of which adds a unit of the sum of their absolute terms.

Second derivatives have no magnitude but that of the gradients they multiply: whatever ran forward,
the reference computes them, of the parameters as they were given. Its sums over samples then are
the same in the same order, so that twice what it errs by itself is all that they may be off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.ops.rational_quadratic_spline.reference import (
    bin_ends,
    bin_index,
    bin_knots,
    knot_slopes,
    map_in_bin,
    soft_clip,
    split_columns,
)


def terms(bins: int) -> int:
    """Return how many units of u `magnitude` is to be multiplied with."""
    return 3 * bins + 32


def magnitude(
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None = None,
    derivatives: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Bound each output's rounding; the gradients of the bounds are bounds of the gradients'.

    Takes the reference's arguments, in float64 and with their signs.
    """
    if heights is None or derivatives is None:
        widths, heights, derivatives = split_columns(widths, options.get("tails", "") is None)

    return _Bounds.apply(x, widths, heights, derivatives, options)


class _Bounds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, options = arguments
        ctx.spline = spline = _Spline(*(each.detach() for each in tensors), **options)
        return spline.bound_of_y(), spline.bound_of_log_det()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        spread = grad_log_det.reshape(-1, *[1] * (grad_y.ndim - 1)).expand(grad_y.shape)
        return *ctx.spline.bounds_of_gradients(grad_y, spread), None


class _Spline:
    """Each element's bin, and what its results feel of rounding there."""

    def __init__(
        self,
        x: Tensor,
        widths: Tensor,
        heights: Tensor,
        derivatives: Tensor,
        *,
        bound: float = 3.0,
        tails: str | None = "linear",
        parametrization: str = "nflows",
        min_bin: float = 1e-3,
        min_derivative: float = 1e-3,
        inverse: bool = False,
    ) -> None:
        self.widths, self.heights, self.derivatives = widths, heights, derivatives
        self.bins, self.bound, self.linear = widths.shape[-1], bound, tails == "linear"
        self.limit = None if parametrization == "nflows" else abs(math.log(min_derivative))
        self.spread = 2 * bound * (1 - min_bin * self.bins if self.limit is None else 1.0)

        axes = [bin_knots(each, bound, min_bin, self.limit) for each in (widths, heights)]
        slopes = knot_slopes(derivatives, tails, min_derivative, self.limit)
        self.index = bin_index(x, axes[1] if inverse else axes[0])
        ends = [end for each in (*axes, slopes) for end in bin_ends(each, self.index, x)]

        self.at = [each.clone().requires_grad_() for each in (x, *ends)]
        with torch.enable_grad():
            results = map_in_bin(*self.at, bound=bound, tails=tails, inverse=inverse)
            firsts = [_derivatives(each, self.at) for each in results]
            seconds = [[_derivatives(each, self.at) for each in first] for first in firsts]

        self.y, self.log_slope = (each.detach() for each in results)
        self.first = [[each.detach().abs() for each in first] for first in firsts]
        self.second = [[self._moved(each) for each in second] for second in seconds]
        self.terms = _absolute_terms(self.y if inverse else x, self.at, bound, inverse)
        if self.linear:
            # Beyond linear tails the spline has no part in anything.
            inside = (x.abs() <= bound).to(x)
            self.terms = [[each * inside for each in one] for one in self.terms]

    def bound_of_y(self) -> Tensor:
        _, x0, x1, y0, y1, _, _ = (each.detach() for each in self.at)
        return self.y.abs() + torch.maximum(x1 - x0, y1 - y0) + self._moved(self.first[0])

    def bound_of_log_det(self) -> Tensor:
        added = self.y[:1].numel() / terms(self.bins)
        each = 1 + added * self.log_slope.abs() + self._moved(self.first[1])
        return each.flatten(1).sum(1) if each.ndim > 1 else each

    def bounds_of_gradients(self, grad_y: Tensor, grad_log_slope: Tensor) -> tuple[Tensor, ...]:
        def combine(pair: list[list[Tensor]]) -> list[Tensor]:
            return [grad_y * y + grad_log_slope * slope for y, slope in zip(*pair, strict=True)]

        x, x0, x1, y0, y1, d0, d1 = (
            moved + rounded
            for moved, rounded in zip(combine(self.second), combine(self.terms), strict=True)
        )
        return (
            x,
            self._of_shares(self.widths, x0, x1),
            self._of_shares(self.heights, y0, y1),
            self._of_slopes(d0, d1),
        )

    def _moved(self, derivatives: Sequence[Tensor]) -> Tensor:
        """Return what moving the ends of a bin by their roundings does."""
        _, x0, x1, y0, y1, d0, d1 = (each.detach().abs() for each in derivatives)
        *_, slope0, slope1 = (each.detach() for each in self.at)
        return 2 * self.bound * (x0 + x1 + y0 + y1) + slope0 * d0 + slope1 * d1

    def _of_shares(self, unconstrained: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Bound the gradients of widths or heights by those of a bin's ends.

        That of share p_i is spread p_i (a_i - sum_j p_j a_j), where a_i is the sum of the
        gradients of the knots above i; p_i errs by the rounding of its exponent too, and may
        count as zero below 2^-125.
        """
        clipped = unconstrained if self.limit is None else soft_clip(unconstrained, self.limit / 2)
        below = clipped.amax(-1, keepdim=True) - clipped
        shares = F.softmax(clipped, -1) * (1 + below / terms(self.bins))
        shares = shares + 2.0**-125 / (terms(self.bins) * 2.0**-24)

        # The outermost knots do not move.
        ends = first * (self.index[..., 0] > 0) + last * (self.index[..., 0] < self.bins - 1)
        return self._summed(self.spread * shares * ends[..., None], unconstrained)

    def _of_slopes(self, first: Tensor, last: Tensor) -> Tensor:
        steepness = torch.sigmoid(self.derivatives)
        if self.limit is not None:
            steepness = soft_clip(self.derivatives, self.limit).exp()

        knots = first.new_zeros(*first.shape, self.bins + 1)
        knots.scatter_(-1, self.index, first[..., None])
        knots.scatter_(-1, self.index + 1, last[..., None])
        knots = knots[..., 1:-1] if self.linear else knots
        return self._summed(steepness * knots, self.derivatives)

    def _summed(self, gradients: Tensor, parameter: Tensor) -> Tensor:
        if gradients.shape == parameter.shape:
            return gradients

        return gradients.sum(0) * (1 + len(gradients) / terms(self.bins))


def _derivatives(value: Tensor, places: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        return tuple(torch.zeros_like(each) for each in places)

    return torch.autograd.grad(value.sum(), places, create_graph=True, materialize_grads=True)


def _absolute_terms(
    x: Tensor, at: Sequence[Tensor], bound: float, inverse: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the absolute terms of the derivatives of y and of the log-slope.

    By x (y where inverse), x0, x1, y0, y1, d0 and d1. With D the denominator of y, D^2 J / s^2 = M,
    t = theta rest and h, w the sides of the bin, y = y0 + h r and the slope is J.
    """
    given, x0, x1, y0, y1, d0, d1 = (each.detach() for each in at)
    w, h = x1 - x0, y1 - y0
    s, theta, rest = h / w, (x.clamp(-bound, bound) - x0) / w, (x1 - x.clamp(-bound, bound)) / w
    square, t = theta.square() + rest.square(), theta * rest
    D = s * square + (d0 + d1) * t
    M = d1 * theta.square() + 2 * s * t + d0 * rest.square()
    r, J = (s * theta.square() + d0 * t) / D, M * (s / D).square()

    by_theta, by_s = h * s * M / D.square(), h * t * (d1 + d0) * square / D.square()
    edge = (given - given.clamp(-bound, bound)).abs()
    of_y = _of_ends(w, s, theta, rest, by_theta, by_s)
    of_y[3] += 1 - r
    of_y[4] += r
    of_y += [h * t * (1 - r) / D + edge, h * t * r / D + edge]

    by_theta = 2 * (d1 * theta + d0 * rest + s) / M + 2 * (d0 + d1 + s) / D
    by_s = 2 / s + 2 * t / M + 2 * square / D
    of_slope = _of_ends(w, s, theta, rest, by_theta, by_s)
    of_slope += [rest.square() / M + 2 * t / D, theta.square() / M + 2 * t / D]

    if not inverse:
        return of_y, of_slope

    # x(y) moves by -1/J of what y(x) does, and takes the log-slope with it.
    of_y[0] = torch.ones_like(J)
    of_x = [each / J for each in of_y]
    return of_x, [of_slope[0] * by_y + own for by_y, own in zip(of_x, of_slope, strict=True)]


def _of_ends(
    w: Tensor, s: Tensor, theta: Tensor, rest: Tensor, by_theta: Tensor, by_s: Tensor
) -> list[Tensor]:
    """Return the terms by x, x0, x1, y0 and y1 of what depends on theta and s = h / w."""
    return [
        by_theta / w,
        (rest * by_theta + s * by_s) / w,
        (theta * by_theta + s * by_s) / w,
        by_s / w,
        by_s / w,
    ]
