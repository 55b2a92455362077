"""The public function `invertible_1x1`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, check_shape
from dgm_fast.ops.invertible_1x1 import op, reference
from dgm_fast.ops.invertible_1x1.factors import PLU, check_weight


def invertible_1x1(
    x: Tensor,
    weight: Tensor | PLU,
    log_scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    log_abs_det: Tensor | None = None,
    inverse: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Mix the channels of every pixel by an invertible matrix; return the log-determinant too.

    .. math:: y_p = W \, e^{\text{log\_scale}} \odot (x_p + \text{shift}), \qquad
              \log|\det| = P \left( \log|\det W| + \sum_c \text{log\_scale}_c \right)

    for each of the P pixels p of a sample. The scale and the shift are an activation normalisation
    before the product, folded into the matrix: one pass over the pixels for both.

    Arguments:
        x: the input; dim 1 is the channels.
        weight: W, in full or by its factors (`PLU`).
        log_scale: logarithm of a scale per channel, or None.
        shift: added to x before it is scaled, or None.
        log_abs_det: log |det W| of a full weight, where it is known (`batched_log_abs_det` gives
            those of many weights at once); default: computed here. The inverse does not read it:
            the factors it solves with tell.
        inverse: undo: with y for x, return x and the log-determinant of the inverse, by triangular
            solves.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, C, *), where `*` is any number of dims, none included; weight (C, C), log_scale and
        shift (C,), log_abs_det (); returns y, of x's shape, and the log-determinant (B,), in nats.

    Precision:
        float32, bfloat16 and float16; matrices are made, solved with and summed in float32 or
        wider whatever the dtype of x, and the log-determinant is float32. float64 stays float64 and
        runs on the reference. Under autocast the pixels are cast, the parameters are not.

    Gradients:
        For x and every parameter but the permutation and the signs. Saves the arguments. Second
        derivatives run on the reference.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: shapes or devices do not fit.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, sections
        3.1 and 3.2.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x, weight = torch.randn(5, 3, 8, 8), ops.PLU.from_weight(2 * torch.eye(3))
        >>> y, log_det = ops.invertible_1x1(x, weight)
        >>> bool((y == 2 * x).all()), round(log_det[0].item(), 2)
        (True, 133.08)
        >>> back, _ = ops.invertible_1x1(y, weight, inverse=True)
        >>> bool((back == x).all())
        True
    """
    _check(x, weight, log_scale, shift, log_abs_det)
    chosen = op.choose(impl, x)
    if chosen == "reference":
        return reference.invertible_1x1(x, weight, log_scale, shift, log_abs_det, inverse)

    return op.run(chosen, x, weight, log_scale, shift, log_abs_det, inverse)


def _check(
    x: Tensor,
    weight: Tensor | PLU,
    log_scale: Tensor | None,
    shift: Tensor | None,
    log_abs_det: Tensor | None,
) -> None:
    check_floating("x", x)
    if x.ndim < 2 or x.shape[1] == 0:
        raise ValueError(f"x must have shape (B, C, *) with a channel; got {tuple(x.shape)}")

    channels = x.shape[1]
    if isinstance(weight, PLU):
        _check_factors(weight, channels, x)
        if log_abs_det is not None:
            raise ValueError(
                f"log_abs_det must be None beside factors, which hold it; got {log_abs_det}"
            )
    else:
        check_weight("weight", weight)
        check_shape("weight", weight, (channels, channels), "(C, C)")
        check_device("weight", weight, "x", x)

    vectors = {"log_scale": log_scale, "shift": shift}
    for name, value in vectors.items():
        if value is not None:
            _check_parameter(name, value, (channels,), "(C,)", x)
    if log_abs_det is not None:
        _check_parameter("log_abs_det", log_abs_det, (), "()", x)


def _check_factors(factors: PLU, channels: int, x: Tensor) -> None:
    for name in ("lower", "upper"):
        _check_parameter(name, getattr(factors, name), (channels, channels), "(C, C)", x)
    for name in ("log_diag", "sign"):
        _check_parameter(name, getattr(factors, name), (channels,), "(C,)", x)

    permutation = factors.permutation
    check_shape("permutation", permutation, (channels,), "(C,)")
    check_device("permutation", permutation, "x", x)
    if permutation.dtype is not torch.int64:
        raise TypeError(f"permutation must have dtype torch.int64; got {permutation.dtype}")


def _check_parameter(
    name: str, value: Tensor, shape: tuple[int, ...], meaning: str, x: Tensor
) -> None:
    check_floating(name, value)
    check_shape(name, value, shape, meaning)
    check_device(name, value, "x", x)
