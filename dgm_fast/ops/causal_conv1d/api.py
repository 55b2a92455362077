"""The public function `causal_conv1d`."""

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
from dgm_fast.ops.causal_conv1d import op


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    groups: int = 1,
    state: Tensor | None = None,
    return_state: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Convolve in time without looking ahead.

    .. math:: y_{o,t} = b_o + \sum_{c,j} w_{o,c,j} \, x_{c,\,t - (k - 1 - j) d}

    for a kernel of k elements and dilation d; before the signal there are zeros, or `state`. A long
    signal may come in pieces: the state that one call returns is what the next one is given, and
    the pieces' results together are the whole's, to rounding.

    Arguments:
        x: the signal.
        weight: in torch's layout.
        bias: or None.
        dilation: d.
        groups: 1, or as many as x has channels: depthwise, a kernel of its own for each.
        state: the (k - 1) d inputs before x, or None for zeros.
        return_state: return the last (k - 1) d inputs, too.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, in, T), weight (out, in, k) or depthwise (in, 1, k), bias (out,), state
        (B, in, (k - 1) d); returns y (B, out, T), or (y, state). On a GPU y lies as x does, with a
        time's channels side by side where x has them so, which is read without a copy.

    Precision:
        float32, bfloat16 and float16; sums are in float32. float64 runs on the reference. Under
        autocast the tensors are cast as `F.conv1d`'s are.

    Gradients:
        Of x, weight, bias and state; saves x and weight, and no padded copy. Second derivatives run
        on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit, or an option is out of range.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016, figures 2 and 3.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x, weight = torch.arange(4.0).view(1, 1, 4), torch.ones(1, 1, 2)
        >>> ops.causal_conv1d(x, weight, dilation=2).tolist()
        [[[0.0, 1.0, 2.0, 4.0]]]
        >>> first, state = ops.causal_conv1d(x[..., :3], weight, dilation=2, return_state=True)
        >>> ops.causal_conv1d(x[..., 3:], weight, dilation=2, state=state).tolist()
        [[[4.0]]]
    """
    reach = _check(x, weight, bias, dilation, groups, state)
    if torch.is_autocast_enabled(x.device.type):
        x, weight, bias, state = (as_autocast(each) for each in (x, weight, bias, state))

    whole = x if state is None else torch.cat((state, x), dim=-1)
    y = op.run(impl, whole, weight, bias, dilation, 0 if state is None else reach)
    return (y, _last(whole, reach)) if return_state else y


def _last(whole: Tensor, reach: int) -> Tensor:
    """Return the last inputs, zeros before a short signal: a copy, which keeps no signal alive."""
    missing = max(0, reach - whole.shape[-1])
    last = whole[..., whole.shape[-1] - (reach - missing) :]
    return torch.nn.functional.pad(last, (missing, 0)) if missing else last.clone()


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int,
    groups: int,
    state: Tensor | None,
) -> int:
    """Return how far back the kernel sees."""
    check_floating("x", x)
    check_floating("weight", weight)
    if x.ndim != 3 or x.shape[1] == 0:
        raise ValueError(f"x must have shape (B, in, T) with in > 0; got {tuple(x.shape)}")

    channels = x.shape[1]
    if groups not in (1, channels):
        raise ValueError(f"groups must be 1 or the {channels} channels of x; got {groups}")
    fits = weight.ndim == 3 and weight.shape[1] == channels // groups and weight.shape[2] > 0
    if not fits or weight.shape[0] == 0 or (groups > 1 and weight.shape[0] != channels):
        shape = f"(out, in = {channels}, k)" if groups == 1 else f"({channels}, 1, k)"
        raise ValueError(f"weight must have shape {shape}; got {tuple(weight.shape)}")
    if not isinstance(dilation, int) or dilation < 1:
        raise ValueError(f"dilation must be a positive int; got {dilation}")

    reach = (weight.shape[2] - 1) * dilation
    check_device("weight", weight, "x", x)
    check_autocast_dtype("weight", weight, "x", x)
    for name, each, shape, meaning in (
        ("bias", bias, weight.shape[:1], "(out,)"),
        ("state", state, (x.shape[0], channels, reach), "(B, in, (k - 1) dilation)"),
    ):
        if each is not None:
            check_operand(name, each, shape, meaning, "x", x)

    return reach
