"""The public function `masked_linear`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import (
    as_autocast,
    check_autocast_dtype,
    check_device,
    check_floating,
    check_operand,
    check_shape,
)
from dgm_fast.ops.masked_linear import op, reference
from dgm_fast.ops.masked_linear.structure import MaskStructure


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: MaskStructure,
    *,
    impl: str = "auto",
) -> Tensor:
    r"""Apply a linear map whose weight is masked, skipping what the mask removes.

    .. math:: y = x \, (W \odot M)^\top + b

    The weight itself is never edited. As in the formula, where 0 * NaN = NaN, a NaN in x may
    reach, as NaN, outputs that the mask hides from it; kernels, unlike the reference, let none
    out of a weight that the mask removes.

    Arguments:
        x: the input.
        weight: in torch's layout.
        bias: or None.
        mask: the structure of the mask, planned once with `MaskStructure.from_degrees` or
            `.from_mask`.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (*, in), weight (out, in), bias (out,), result (*, out); `*` is any number of dims,
        none included.

    Precision:
        float32, bfloat16 and float16; sums are kept in float32, and in the C++ kernel a partial
        sum below 1.2e-38 counts as zero. float64 runs on the reference. Under autocast the inputs
        are cast as `F.linear`'s are.

    Gradients:
        For x, weight and bias; the weight's is exactly zero where the mask is. Saves x and
        weight. Second derivatives run on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution
        Estimation", 2015.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> m = ops.MaskStructure.from_degrees(torch.arange(3), torch.arange(2), strict=True)
        >>> ops.masked_linear(torch.ones(5, 3), torch.ones(2, 3), None, m)[0].tolist()
        [0.0, 1.0]
    """
    try:
        chosen = op.choose(impl, x, weight, mask)
        if (
            chosen == "reference"
            and weight.shape == mask.shape
            and x.is_floating_point()
            and (bias is None or bias.shape == weight.shape[:1])
        ):
            # Small layers feel every microsecond: what is left to check, torch checks.
            return reference.masked_linear(x, weight, bias, mask)
    except (AttributeError, RuntimeError, TypeError):
        # What is wrong with the arguments says more than what it led to.
        _check(x, weight, bias, mask)
        raise

    _check(x, weight, bias, mask)
    if torch.is_autocast_enabled(x.device.type):
        x, weight, bias = (as_autocast(each) for each in (x, weight, bias))
        chosen = op.choose(impl, x, weight, mask)
        if chosen == "reference":
            return reference.masked_linear(x, weight, bias, mask)

    return op.apply(chosen, x, weight, bias, mask)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, mask: MaskStructure) -> None:
    if not isinstance(mask, MaskStructure):
        raise TypeError(
            f"mask must be a MaskStructure (MaskStructure.from_mask makes one); "
            f"got {type(mask).__name__}"
        )

    check_floating("x", x)
    check_floating("weight", weight)
    check_shape("weight", weight, (mask.out_features, mask.in_features), "(out, in)")
    if x.ndim == 0 or x.shape[-1] != mask.in_features:
        raise ValueError(f"x must have shape (*, in = {mask.in_features}); got {tuple(x.shape)}")

    check_device("weight", weight, "x", x)
    check_autocast_dtype("weight", weight, "x", x)
    if bias is not None:
        check_operand("bias", bias, (mask.out_features,), "(out,)", "x", x)

    if mask.mask.device != x.device:
        raise ValueError(
            f"mask must be on the device of x; got {mask.mask.device} and {x.device} "
            f"(mask.to(device) moves it)"
        )
