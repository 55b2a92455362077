"""The public function `wavenet_layer`."""

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
from dgm_fast.ops.wavenet_layer import op, reference


def wavenet_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    *,
    condition: Tensor | None = None,
    dilation: int = 1,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Run a residual layer of WaveNet.

    .. math:: (a, b) = W *_d x + b_W + c, \qquad z = \tanh(a) \, \sigma(b), \qquad
              y = x + V z + b_V

    for a causal convolution of dilation d, as `causal_conv1d` has it. What a layer gives to the
    output of the whole network is a linear map of z, too: all layers' maps together are one matrix
    product of their stacked z, so that no layer needs one of its own.

    Arguments:
        x: the signal.
        weight: W, in torch's layout.
        bias: of W, or None.
        residual_weight: V, of a kernel of one element.
        residual_bias: of V, or None.
        condition: c, of every time or the same at all of them.
        dilation: d.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, R, T), weight (2 G, R, k), bias (2 G,), residual_weight (R, G, 1), residual_bias
        (R,), condition (B, 2 G, T) or (B, 2 G, 1); returns y (B, R, T) and z (B, G, T). On a GPU
        their strides have a time's channels side by side, as the next layer reads them.

    Precision:
        float32, bfloat16 and float16; sums and the gate are in float32. float64 runs on the
        reference. Under autocast all of it, the sum with x too, is in autocast's dtype.

    Gradients:
        Of every tensor; saves x, the weights, z and what the gate was given. Second derivatives run
        on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit, or the dilation is not positive.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016, equations 2 and 3
        and figure 4.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x = torch.randn(2, 3, 7)
        >>> weight, residual_weight = torch.zeros(8, 3, 2), torch.randn(3, 4, 1)
        >>> y, z = ops.wavenet_layer(x, weight, None, residual_weight, None, dilation=2)
        >>> torch.equal(y, x), z.shape
        (True, torch.Size([2, 4, 7]))
    """
    _check(x, weight, bias, residual_weight, residual_bias, condition, dilation)
    tensors = (x, weight, bias, residual_weight, residual_bias, condition)
    if torch.is_autocast_enabled(x.device.type):
        tensors = tuple(as_autocast(each) for each in tensors)

    chosen = op.choose(impl, tensors[0])
    if chosen == "reference":
        *others, condition = tensors
        return reference.wavenet_layer(*others, condition=condition, dilation=dilation)

    return op.apply(chosen, *tensors, dilation)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    condition: Tensor | None,
    dilation: int,
) -> None:
    check_floating("x", x)
    check_floating("weight", weight)
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise ValueError(f"x must have shape (B, R, T) with R, T > 0; got {tuple(x.shape)}")
    channels = x.shape[1]
    fits = weight.ndim == 3 and weight.shape[1] == channels and weight.shape[2] > 0
    if not fits or weight.shape[0] % 2 or weight.shape[0] == 0:
        raise ValueError(
            f"weight must have shape (2 G, R = {channels}, k); got {tuple(weight.shape)}"
        )
    if not isinstance(dilation, int) or dilation < 1:
        raise ValueError(f"dilation must be a positive int; got {dilation}")

    outs = weight.shape[0]
    times = 1 if condition is None or getattr(condition, "shape", ())[2:] == (1,) else x.shape[2]
    check_device("weight", weight, "x", x)
    check_autocast_dtype("weight", weight, "x", x)
    for name, each, shape, meaning in (
        ("bias", bias, (outs,), "(2 G,)"),
        ("residual_weight", residual_weight, (channels, outs // 2, 1), "(R, G, 1)"),
        ("residual_bias", residual_bias, (channels,), "(R,)"),
        ("condition", condition, (x.shape[0], outs, times), "(B, 2 G, T or 1)"),
    ):
        if each is not None or name == "residual_weight":
            check_operand(name, each, shape, meaning, "x", x)
