"""The public function `masked_conv2d`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import (
    as_autocast,
    check_autocast_dtype,
    check_device,
    check_floating,
    check_operand,
)
from dgm_fast.ops.masked_conv2d import op, reference


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask_type: str,
    channel_groups: int = 1,
    dilation: int | tuple[int, int] = 1,
    residual: Tensor | None = None,
    gated: bool = False,
    impl: str = "auto",
) -> Tensor:
    r"""Convolve with a kernel that sees only pixels before its own, skipping what the mask removes.

    .. math:: h = x * (W \odot M) + b + r, \qquad
              y = h \quad\text{or, if gated,}\quad \tanh(h_{\ldots C/2}) \, \sigma(h_{C/2 \ldots})

    The mask is 1 in the rows above the centre of the kernel and left of it in its row. At the
    centre itself type A sees nothing and type B everything; with `channel_groups` G the channels of
    input and output are in G groups of equal size, in order, and there type A sees the groups
    before an output's own and type B that one, too: G = 3 orders red, green and blue. Under a gate
    both halves of the channels are ordered alike. The image keeps its size: beyond it there are
    zeros. The weight itself is never edited.

    Arguments:
        x: images.
        weight: in torch's layout and of full size, so that checkpoints load both ways; its sides
            are odd.
        bias: or None.
        mask_type: `"A"` in a first layer, `"B"` in all others.
        channel_groups: how many groups of channels are ordered at a pixel.
        dilation: of rows and columns.
        residual: added to the convolution, before any gate.
        gated: let the second half of the channels gate the first.
        impl: `"auto"`, `"reference"`, `"cpp"`, `"triton"` or `"cuda"` (Hopper).

    Shapes:
        x (B, in, H, W), weight (out, in, kh, kw), bias (out,), residual (B, out, H, W); returns
        (B, out, H, W), or (B, out / 2, H, W) gated. x in channels_last gives y in channels_last.

    Precision:
        float32, bfloat16 and float16; sums and the gate are in float32. float64 runs on the
        reference. Under autocast the tensors are cast as `F.conv2d`'s are.

    Gradients:
        Of x, weight, bias and residual; the weight's is exactly zero where the mask is. Saves x,
        weight and, gated, h. Second derivatives run on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit, or an option is unknown.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, figure 2.
        van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional Image
        Generation with PixelCNN Decoders", 2016, equation 2.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x, weight = torch.ones(1, 1, 2, 3), torch.ones(1, 1, 3, 3)
        >>> ops.masked_conv2d(x, weight, mask_type="A")[0, 0].tolist()
        [[0.0, 1.0, 1.0], [2.0, 4.0, 3.0]]
    """
    _check(x, weight, bias, residual, mask_type, channel_groups, gated)
    down, across = _pair(dilation)
    if torch.is_autocast_enabled(x.device.type):
        x, weight, bias, residual = (as_autocast(each) for each in (x, weight, bias, residual))

    chosen = op.choose(impl, x, weight, gated)
    if chosen == "reference":
        return reference.masked_conv2d(
            x,
            weight,
            bias,
            mask_type=mask_type,
            channel_groups=channel_groups,
            dilation=(down, across),
            residual=residual,
            gated=gated,
        )

    mask = (channel_groups, mask_type == "A", down, across)
    return op.apply(chosen, x, weight, bias, residual, *mask, gated)


def _pair(dilation: int | tuple[int, int]) -> tuple[int, int]:
    pair = (dilation, dilation) if isinstance(dilation, int) else tuple(dilation)
    if len(pair) != 2 or any(not isinstance(each, int) or each < 1 for each in pair):
        raise ValueError(f"dilation must be a positive int or two; got {dilation}")

    return pair


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    mask_type: str,
    channel_groups: int,
    gated: bool,
) -> None:
    check_floating("x", x)
    check_floating("weight", weight)
    if mask_type not in ("A", "B"):
        raise ValueError(f"mask_type must be 'A' or 'B'; got {mask_type!r}")
    if x.ndim != 4:
        raise ValueError(f"x must have shape (B, in, H, W); got {tuple(x.shape)}")
    if (
        weight.ndim != 4
        or weight.shape[1] != x.shape[1]
        or not all(n % 2 for n in weight.shape[2:])
    ):
        raise ValueError(
            f"weight must have shape (out, in = {x.shape[1]}, kh, kw) with odd kh and kw; "
            f"got {tuple(weight.shape)}"
        )

    out, ins = weight.shape[:2]
    if gated and out % 2:
        raise ValueError(f"weight must have an even number of outputs to be gated; got {out}")
    ordered = out // 2 if gated else out
    if channel_groups < 1 or ordered % channel_groups or ins % channel_groups:
        raise ValueError(
            f"channel_groups must divide the {ins} channels of x and {ordered} of the result; "
            f"got {channel_groups}"
        )

    check_device("weight", weight, "x", x)
    check_autocast_dtype("weight", weight, "x", x)
    of_result = (x.shape[0], out, *x.shape[2:])
    for name, each, shape, meaning in (
        ("bias", bias, (out,), "(out,)"),
        ("residual", residual, of_result, "(B, out, H, W)"),
    ):
        if each is not None:
            check_operand(name, each, shape, meaning, "x", x)
