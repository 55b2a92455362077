"""The public function `rational_quadratic_spline`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating
from dgm_fast.ops.rational_quadratic_spline import op
from dgm_fast.ops.rational_quadratic_spline.reference import bin_count


def rational_quadratic_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None = None,
    derivatives: Tensor | None = None,
    *,
    bound: float = 3.0,
    tails: str | None = "linear",
    parametrization: str = "nflows",
    min_bin: float = 1e-3,
    min_derivative: float = 1e-3,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Map each element by its own monotonic rational-quadratic spline, and sum the log-slopes.

    K bins cover [-bound, bound] on both axes. In the bin from (x_0, y_0) to (x_1, y_1), of mean
    slope s = (y_1 - y_0) / (x_1 - x_0) and with slopes d_0, d_1 at its ends,

    .. math:: y = y_0 + (y_1 - y_0)
              \frac{s \theta^2 + d_0 \theta (1 - \theta)}
                   {s + (d_0 + d_1 - 2 s) \theta (1 - \theta)}, \qquad
              \theta = \frac{x - x_0}{x_1 - x_0}

    The function has a continuous slope everywhere. Where the field's unconstrained parameters
    become bins and slopes, two conventions are known:

    - `"nflows"`: shares of an axis are `min_bin + (1 - K min_bin) softmax(u)`, slopes
      `min_derivative + softplus(u)`;
    - `"zuko"`: with l = |ln min_derivative|, shares are `softmax(u / (1 + |2 u / l|))`, slopes
      `exp(u / (1 + |u / l|))`, between `min_derivative` and its inverse; `min_bin` is not used.

    Arguments:
        x: what is mapped; y where `inverse`.
        widths: of the bins, unconstrained; or, given alone, all parameters side by side: widths,
            heights, derivatives. Its gradient then comes in one piece too.
        heights: of the bins, unconstrained.
        derivatives: slopes at the knots, unconstrained.
        bound: of both axes.
        tails: `"linear"`: the identity outside the bound, the slope 1 at it. None: the slopes at
            the bounds are parameters too, and the map goes on with them in a straight line.
        parametrization: `"nflows"` or `"zuko"`.
        min_bin: the least share of an axis that a bin has.
        min_derivative: the least slope at a knot.
        inverse: map y to x; the log-determinant is the inverse's own.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, *E); widths and heights (B, *E, K); derivatives (B, *E, K - 1) with linear tails,
        (B, *E, K + 1) without; together (B, *E, 3K - 1) or (B, *E, 3K + 1). All parameters may
        lack the dim B: samples share them, and gradients are summed over samples.
        Returns y (B, *E) and log_det (B,).

    Precision:
        float32, bfloat16 and float16, computed in float32; float64 on the reference. y has the
        dtype that x and the parameters promote to, so a network may run in bfloat16 on data in
        float32. log_det is float32 (float64 for float64), in nats. In float32 the inverse returns
        to x within some units of rounding of `bound` over the least slope of the spline.

    Gradients:
        For x and all parameters, of both results, finite everywhere; at a knot those of the bin
        above it. Parameters that samples share have sums in float32, in an order that neither
        threads nor runs change. Saves the arguments. Second derivatives run on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes do not fit.
        ValueError: shapes, devices or options do not fit.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows", 2019, equations 4 to 8.
        Gregory, Delbourgo, "Piecewise rational quadratic interpolation to monotonic data", 1982.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x, parameters = torch.randn(5, 2), torch.randn(5, 2, 23)
        >>> w, h, d = parameters.split((8, 8, 7), dim=-1)
        >>> y, log_det = ops.rational_quadratic_spline(x, w, h, d)
        >>> x_again, minus_log_det = ops.rational_quadratic_spline(y, w, h, d, inverse=True)
        >>> bool(torch.allclose(x, x_again, atol=1e-4)), tuple(log_det.shape)
        (True, (5,))
    """
    bins = _check_tensors(x, widths, heights, derivatives, tails)
    _check_options(bins, bound, parametrization, min_bin, min_derivative)

    x = x.to(torch.promote_types(x.dtype, widths.dtype))
    constants = (bound, min_bin, min_derivative)
    kind = (tails is None, parametrization == "zuko", inverse)
    return op.run(impl, x, widths, heights, derivatives, *constants, *kind)


def _check_tensors(
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None,
    derivatives: Tensor | None,
    tails: str | None,
) -> int:
    """Return K."""
    check_floating("x", x)
    if x.ndim == 0:
        raise ValueError("x must have shape (B, *E); got ()")
    if tails not in ("linear", None):
        raise ValueError(f"tails must be 'linear' or None; got {tails!r}")

    check_floating("widths", widths)
    columns = widths.shape[-1] if widths.ndim > 0 else 0
    bins, sign = columns, "+" if tails is None else "-"
    together = heights is None and derivatives is None
    if together:
        bins = bin_count(columns, tails is None)
        columns = 3 * bins + (1 if tails is None else -1)

    meaning = f"3K {sign} 1" if together else "K"
    if bins == 0:
        raise ValueError(
            f"widths must have shape (B, *E, {meaning}) with K > 0; got {tuple(widths.shape)}"
        )

    _check_parameter("widths", widths, x, columns, meaning)
    if not together:
        _check_like("heights", heights, widths, x, bins, "K")
        knots = bins + 1 if tails is None else bins - 1
        _check_like("derivatives", derivatives, widths, x, knots, f"K {sign} 1")

    return bins


def _check_like(
    name: str, value: Tensor, widths: Tensor, x: Tensor, count: int, meaning: str
) -> None:
    _check_parameter(name, value, x, count, meaning)
    if value.ndim != widths.ndim:
        raise ValueError(
            f"{name} must have the dim B where widths has it; got {tuple(value.shape)} and "
            f"{tuple(widths.shape)}"
        )
    if value.dtype != widths.dtype:
        raise TypeError(
            f"{name} must have the dtype of widths; got {value.dtype} and {widths.dtype}"
        )


def _check_parameter(name: str, value: Tensor, x: Tensor, count: int, meaning: str) -> None:
    check_floating(name, value)
    shape = (*x.shape, count)
    if tuple(value.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"{name} must have shape (B, *E, {meaning}) = {shape}, or that without B; "
            f"got {tuple(value.shape)}"
        )

    check_device(name, value, "x", x)


def _check_options(
    bins: int, bound: float, parametrization: str, min_bin: float, min_derivative: float
) -> None:
    if not 0 < bound < math.inf:
        raise ValueError(f"bound must be positive and finite; got {bound}")
    if parametrization not in ("nflows", "zuko"):
        raise ValueError(f"parametrization must be 'nflows' or 'zuko'; got {parametrization!r}")
    if parametrization == "nflows" and not 0 < min_bin * bins <= 1:
        raise ValueError(f"min_bin must be in (0, 1 / K = {1 / bins:.3g}]; got {min_bin}")
    if not 0 < min_derivative < 1:
        raise ValueError(f"min_derivative must be in (0, 1); got {min_derivative}")
