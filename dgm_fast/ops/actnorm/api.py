"""The public function `actnorm`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, check_shape
from dgm_fast.ops.actnorm import op


def actnorm(
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    *,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Shift and scale every channel by numbers of its own.

    .. math:: y_c = e^{s_c} (x_c + t_c), \qquad
              \log\det = (\text{elements of a channel}) \sum_c s_c

    with :math:`s` = `log_scale` and :math:`t` = `shift`: Glow shifts first, as here; nflows and
    normflows write :math:`e^{s} x + t'`, which is :math:`t = e^{-s} t'`; FrEIA :math:`e^{-s'}
    (x - l)`, which is :math:`s = -s', t = -l`.

    Arguments:
        x: data; with `inverse` the y to undo.
        log_scale: s.
        shift: t.
        inverse: undo it: x from y, and the log-determinant of that.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, C, *), log_scale and shift (C,). Returns y (B, C, *) and log_det (B,).

    Precision:
        float32 inside for bfloat16 and float16 too. y has the dtype that x and shift promote to;
        log_det is float32 (float64 for float64), in nats.

    Gradients:
        Of x, log_scale and shift, in one pass over these, which are all that is saved. Sums over
        the batch are taken in an order that no number of threads changes. Second derivatives run
        on the reference.

    Raises:
        ValueError: shapes or devices do not agree.
        TypeError: a tensor is not floating-point.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, section
        3.1 and table 1.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x, log_scale, shift = torch.randn(8, 3, 5, 5), torch.randn(3), torch.randn(3)
        >>> y, log_det = ops.actnorm(x, log_scale, shift)
        >>> torch.allclose(log_det, 25 * log_scale.sum().expand(8), atol=1e-4)
        True
        >>> x_again, _ = ops.actnorm(y, log_scale, shift, inverse=True)
        >>> torch.allclose(x, x_again, atol=1e-4)
        True
    """
    check_floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have shape (B, C, *); got {tuple(x.shape)}")
    for name, value in (("log_scale", log_scale), ("shift", shift)):
        check_floating(name, value)
        check_device(name, value, "x", x)
        check_shape(name, value, x.shape[1:2], "(C,)")
    if log_scale.dtype != shift.dtype:
        raise TypeError(
            f"log_scale must have the dtype of shift; got {log_scale.dtype} and {shift.dtype}"
        )

    dtype = torch.promote_types(x.dtype, shift.dtype)
    return op.run(impl, x.to(dtype), log_scale, shift, bool(inverse))
