"""A convolution that sees only pixels before its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgm_fast.ops import masked_conv2d
from dgm_fast.ops.masked_conv2d.reference import mask_of

__all__ = ["MaskedConv2d"]


class MaskedConv2d(nn.Conv2d):
    r"""Apply `ops.masked_conv2d`: a convolution of PixelCNN's masks A and B.

    .. math:: h = x * (W \odot M) + b + r, \qquad
              y = h \quad\text{or, if gated,}\quad \tanh(h_{\ldots C/2}) \, \sigma(h_{C/2 \ldots})

    It is an `nn.Conv2d` that keeps the image's size, with the same parameters and state_dict. The
    weight is stored whole and never edited; its gradient is exactly zero where the mask is.

    Weights and biases begin as those of `nn.Conv2d`, uniform within :math:`\pm 1 / \sqrt n`, but
    with n the number of live weights of an output channel, as in a kernel cut down to them; where
    there are none, n counts all.

    Arguments:
        in_channels: of x.
        out_channels: of the weight; a gate halves them.
        kernel_size: an odd number, or two.
        mask_type: `"A"` in a first layer, `"B"` in all others.
        channel_groups: how many groups of channels are ordered at a pixel.
        dilation: of rows and columns.
        bias: whether to add one.
        gated: let the second half of the channels gate the first.
        impl: as in `ops.masked_conv2d`.
        device: of the parameters.
        dtype: of the parameters.

    Shapes:
        x (B, in, H, W), residual (B, out, H, W) -> (B, out, H, W), or (B, out / 2, H, W) gated.

    Raises:
        ValueError: an option is unknown or does not fit the channels.
        TypeError, ValueError: as `ops.masked_conv2d`, of what it is applied to.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, figure 2.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import MaskedConv2d
        >>> layer = MaskedConv2d(3, 6, 5, "A", channel_groups=3)
        >>> layer(torch.randn(2, 3, 8, 9)).shape
        torch.Size([2, 6, 8, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        mask_type: str,
        channel_groups: int = 1,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        gated: bool = False,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(in_channels, out_channels, mask_type, channel_groups, gated)
        sides = _odd_pair("kernel_size", kernel_size)
        steps = _pair("dilation", dilation)
        # Before the parent's constructor, which initialises by the mask.
        self.mask_type, self.channel_groups, self.gated = mask_type, channel_groups, gated
        self.impl = impl
        super().__init__(
            in_channels,
            out_channels,
            sides,
            padding=tuple(side // 2 * step for side, step in zip(sides, steps, strict=True)),
            dilation=steps,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    @property
    def mask(self) -> Tensor:
        """The 0/1 mask of the weight, in its dtype."""
        return mask_of(self.weight.detach(), self.mask_type, self.channel_groups, self.gated)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, with the spread that fits the live weights."""
        super().reset_parameters()
        live = self.mask.flatten(1).sum(1)
        widen = (self.weight[0].numel() / live.clamp(min=1)).sqrt().where(live > 0, 1.0)
        self.weight.mul_(widen[:, None, None, None])
        if self.bias is not None:
            self.bias.mul_(widen)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve, add `residual`, and gate if gated."""
        return masked_conv2d(
            x,
            self.weight,
            self.bias,
            mask_type=self.mask_type,
            channel_groups=self.channel_groups,
            dilation=self.dilation,
            residual=residual,
            gated=self.gated,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        own = f"mask_type={self.mask_type!r}, channel_groups={self.channel_groups}"
        return f"{super().extra_repr()}, {own}, gated={self.gated}"


def _check(ins: int, out: int, mask_type: str, channel_groups: int, gated: bool) -> None:
    for name, value in (("in_channels", ins), ("out_channels", out)):
        if value < 1:
            raise ValueError(f"{name} must be positive; got {value}")
    if mask_type not in ("A", "B"):
        raise ValueError(f"mask_type must be 'A' or 'B'; got {mask_type!r}")
    if gated and out % 2:
        raise ValueError(f"out_channels must be even to be gated; got {out}")

    ordered = out // 2 if gated else out
    if channel_groups < 1 or ins % channel_groups or ordered % channel_groups:
        raise ValueError(
            f"channel_groups must divide the {ins} channels of x and {ordered} of the result; "
            f"got {channel_groups}"
        )


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(each, int) or each < 1 for each in pair):
        raise ValueError(f"{name} must be a positive int or two; got {value}")
    return pair


def _odd_pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = _pair(name, value)
    if not all(side % 2 for side in pair):
        raise ValueError(f"{name} must be odd; got {value}")
    return pair
