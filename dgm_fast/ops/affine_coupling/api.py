"""The public function `affine_coupling`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, check_shape, check_tensor
from dgm_fast.ops.affine_coupling import op

_BOUNDED = ("tanh", "scaled_tanh", "atan", "soft_clip")
_TAKES_MIN_SCALE = ("sigmoid", "softplus")


def affine_coupling(
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    *,
    scale_map: str = "exp",
    bound: float | None = None,
    min_scale: float = 0,
    mask: Tensor | None = None,
    part: str = "last",
    shift_first: bool = False,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Scale and shift part of each sample by what a network made of the rest.

    .. math:: y = s \odot x + t \quad\text{or}\quad s \odot (x + t) \text{ if shift\_first}, \qquad
              \log\det = \sum_i \log s_i

    with :math:`t` = `shift` and :math:`s` the scale that `scale_map` gives to :math:`u` =
    `log_scale`:

    ======================  ============================================  =====================
    `scale_map`             :math:`\log s`                                as in
    ======================  ============================================  =====================
    `"exp"`                 :math:`u`                                     RealNVP, normflows
    `"tanh"`                :math:`b \tanh(u / b)`                        FrEIA AllInOneBlock
    `"scaled_tanh"`         :math:`b \tanh u`                             FrEIA TANH
    `"atan"`                :math:`0.636\, b \arctan u`                   FrEIA ATAN
    `"soft_clip"`           :math:`u / (1 + |u| / b)`                     zuko, b = -ln slope
    `"sigmoid"`             :math:`\ln(\sigma(u + 2) + m)`                Glow, nflows m = 1e-3
    `"reciprocal_sigmoid"`  :math:`-\ln \sigma(u + 2)`                    normflows "sigmoid"
    `"softplus"`            :math:`\min(\ln(\mathrm{softplus}(u) + m), b)`  nflows m = 1e-3
    ======================  ============================================  =====================

    where b = `bound` and m = `min_scale`.

    Arguments:
        x: data; with `inverse` the y to undo.
        log_scale: what the scale is made of; None for additive coupling, a scale of one.
        shift: t.
        scale_map: one of the table's.
        bound: of the log-scale's absolute value; of the log-scale itself in `"softplus"`, where
            None is no bound. The first three maps below `"exp"` and `"soft_clip"` need one.
        min_scale: least scale of `"sigmoid"` and `"softplus"`.
        mask: True where an element of x stays as it is, as in a checkerboard.
        part: which channels are moved, the `"last"` or the `"first"`, where `shift` has fewer
            than x; the others stay as they are.
        shift_first: shift before scaling, as Glow does.
        inverse: undo it: x from y, and the log-determinant of that.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, C, *), log_scale and shift (B, T, *) with T <= C, mask broadcastable to (C, *) and
        then T = C. Returns y (B, C, *) and log_det (B,).

    Precision:
        float32 inside for bfloat16 and float16 too. y has the dtype that x and shift promote to, so
        a network may run in bfloat16 on data in float32; log_det is float32 (float64 for float64),
        in nats.

    Gradients:
        Of x, log_scale and shift, in one pass over these, which are all that is saved. Elements
        that a mask keeps give log_scale and shift gradients of zero. Second derivatives run on the
        reference.

    Raises:
        ValueError: shapes do not agree, or an option is unknown or does not suit the scale map.
        TypeError: a tensor is not floating-point, or a mask is not bool.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Dinh, Krueger, Bengio, "NICE: Non-linear Independent Components Estimation", 2014.
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017, equations 7 and 8.
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, table 1.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x, h = torch.randn(8, 4, 5, 5), torch.randn(8, 4, 5, 5)
        >>> log_scale, shift = h.chunk(2, dim=1)
        >>> y, log_det = ops.affine_coupling(x, log_scale, shift)
        >>> bool((y[:, :2] == x[:, :2]).all())
        True
        >>> x_again, _ = ops.affine_coupling(y, log_scale, shift, inverse=True)
        >>> torch.allclose(x, x_again, atol=1e-5)
        True
    """
    _check_tensors(x, log_scale, shift, mask)
    code, limit = _check_options(log_scale, scale_map, bound, min_scale, part)

    dtype = torch.promote_types(x.dtype, shift.dtype)
    x = x.to(dtype)
    if mask is not None:
        mask = mask.expand(x.shape[1:]).contiguous()

    flags = (part == "last", bool(shift_first), bool(inverse))
    return op.run(impl, x, log_scale, shift, mask, code, limit, float(min_scale), *flags)


def _check_tensors(x: Tensor, log_scale: Tensor | None, shift: Tensor, mask: Tensor | None) -> None:
    check_floating("x", x)
    check_floating("shift", shift)
    check_device("shift", shift, "x", x)
    if x.ndim == 0:
        raise ValueError("x must have a batch dim; got shape ()")

    # The channels moved may be fewer than there are.
    expected = list(x.shape)
    if x.ndim > 1 and shift.ndim > 1 and shift.shape[1] < x.shape[1]:
        expected[1] = shift.shape[1]
    check_shape("shift", shift, expected, "(B, at most C, *event)")

    if log_scale is not None:
        check_floating("log_scale", log_scale)
        check_device("log_scale", log_scale, "x", x)
        check_shape("log_scale", log_scale, shift.shape, "of shift")
        if log_scale.dtype != shift.dtype:
            raise TypeError(
                f"log_scale must have the dtype of shift; got {log_scale.dtype} and {shift.dtype}"
            )

    if mask is not None:
        _check_mask(mask, x, shift)


def _check_mask(mask: Tensor, x: Tensor, shift: Tensor) -> None:
    check_tensor("mask", mask)
    check_device("mask", mask, "x", x)
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask must be bool, True where x stays as it is; got dtype {mask.dtype}")

    event = x.shape[1:]
    aligned = zip(reversed(mask.shape), reversed(event), strict=False)
    if mask.ndim > len(event) or any(size not in (1, whole) for size, whole in aligned):
        raise ValueError(
            f"mask must be broadcastable to the event {tuple(event)}; got {tuple(mask.shape)}"
        )
    if shift.shape != x.shape:
        raise ValueError(
            f"mask must come with a shift of x's shape; got {tuple(mask.shape)} with "
            f"{tuple(shift.shape)} for {tuple(x.shape)}"
        )


def _check_options(
    log_scale: Tensor | None, scale_map: str, bound: float | None, min_scale: float, part: str
) -> tuple[int, float]:
    """Return the map's code and the bound, infinite where there is none."""
    if scale_map not in op.SCALE_MAPS:
        raise ValueError(f"scale_map must be one of {', '.join(op.SCALE_MAPS)}; got {scale_map!r}")
    if part not in ("first", "last"):
        raise ValueError(f"part must be 'first' or 'last'; got {part!r}")

    if bound is None:
        if scale_map in _BOUNDED and log_scale is not None:
            raise ValueError(f"bound must be positive with scale_map={scale_map!r}; got None")
    elif scale_map not in (*_BOUNDED, "softplus") or not math.isfinite(bound):
        raise ValueError(f"bound must be None with scale_map={scale_map!r}; got {bound}")
    elif scale_map != "softplus" and bound <= 0:
        raise ValueError(f"bound must be positive with scale_map={scale_map!r}; got {bound}")

    if not 0 <= min_scale < math.inf or (min_scale > 0 and scale_map not in _TAKES_MIN_SCALE):
        least = "at least 0" if scale_map in _TAKES_MIN_SCALE else "0"
        raise ValueError(f"min_scale must be {least} with scale_map={scale_map!r}; got {min_scale}")

    return op.SCALE_MAPS.index(scale_map), math.inf if bound is None else float(bound)
