"""Transforms of images that change their resolution, and the architecture of many scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dgm_fast.families.flows.chain import no_change
from dgm_fast.ops import affine_coupling

__all__ = ["MultiScale", "Prior", "Squeeze"]

# Which pixel (row, column) of a 2 x 2 block each group of channels holds.
_LAYOUTS = {
    "rows": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "checkerboard": ((0, 0), (1, 1), (0, 1), (1, 0)),
}


class Squeeze(nn.Module):
    r"""Turn 2 x 2 blocks of pixels into channels, (B, C, H, W) to (B, 4 C, H / 2, W / 2).

    Channel k C + c holds the block's pixel k of channel c. In the layout `checkerboard` the pixels
    are those of one colour first, then those of the other,

        0 2          rows:  0 1
        3 1                 2 3

    so that halves of the channels are the two colours of a checkerboard; with `rows` they are the
    upper and the lower rows.

    Raises:
        ValueError: x is not (B, C, H, W) of even H and W.

    References:
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017, sec. 3.6.

    Example:
        >>> import torch
        >>> y, _ = Squeeze("checkerboard")(torch.arange(4.0).view(1, 1, 2, 2))
        >>> y.flatten().tolist()
        [0.0, 3.0, 1.0, 2.0]
    """

    def __init__(self, layout: Literal["rows", "checkerboard"] = "rows") -> None:
        super().__init__()
        if layout not in _LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}; got {layout!r}")
        self.layout = layout

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the squeezed image and zeros."""
        if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"x must be (B, C, H, W) with even H and W; got {tuple(x.shape)}")

        pixels = [x[:, :, row::2, column::2] for row, column in _LAYOUTS[self.layout]]
        return torch.cat(pixels, dim=1), no_change(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the image and zeros."""
        if y.ndim != 4 or y.shape[1] % 4:
            raise ValueError(f"y must be (B, 4 C, H, W); got {tuple(y.shape)}")

        groups = dict(zip(_LAYOUTS[self.layout], y.chunk(4, dim=1), strict=True))
        rows = [torch.stack([groups[row, 0], groups[row, 1]], dim=-1) for row in (0, 1)]
        # (B, C, H, row, W, column): in this order the dims of a pixel's place are neighbours.
        blocks = torch.stack(rows, dim=3)
        B, C, H, _, W, _ = blocks.shape
        return blocks.reshape(B, C, 2 * H, 2 * W), no_change(y)

    def extra_repr(self) -> str:
        """Show the layout."""
        return self.layout


class MultiScale(nn.Module):
    r"""Transform an image scale by scale, and let half of the channels go after each but the last.

    .. math:: (h_1, z_1) = f_1(x), \; (h_2, z_2) = f_2(h_1), \; \dots, \; z_L = f_L(h_{L-1})

    The z of all scales, flattened and laid side by side, z_1 first, make z in the shape of x.

    What is known of z_i given h_i is said by the end of f_i: a coupling that transforms the half
    to go given the other is Glow's learned Gaussian prior, in the form of a flow to standard
    normals.

    Arguments:
        scales: the transforms f_i.
        shapes: of what each f_i puts out, (C, H, W); (h_i, z_i) are halves of the channels.

    Shapes:
        x (B, C, H, W) -> z (B, C, H, W), log_det (B,).

    References:
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017, eq. 14-16.
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, fig. 2b.
    """

    def __init__(self, scales: Sequence[nn.Module], shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        if len(scales) != len(shapes) or not scales:
            raise ValueError(f"shapes must be one for each scale; got {len(shapes)}, {len(scales)}")
        if any(C % 2 for C, _, _ in shapes[:-1]):
            raise ValueError(f"shapes must have even channels where half of them go; got {shapes}")

        self.scales = nn.ModuleList(scales)
        *split, last = shapes
        self.parts = [(C // 2, H, W) for C, H, W in split] + [tuple(last)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z in the shape of x, and log |det dz/dx|, (B,)."""
        shape, parts, log_det = x.shape, [], no_change(x)
        for i, scale in enumerate(self.scales):
            x, more = scale(x, context)
            log_det = log_det + more
            if i + 1 < len(self.scales):
                x, gone = x.chunk(2, dim=1)
                parts.append(gone.flatten(1))

        return torch.cat([*parts, x.flatten(1)], dim=1).view(shape), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dz|, (B,)."""
        sizes = [math.prod(part) for part in self.parts]
        flat = z.flatten(1).split(sizes, dim=1)
        *parts, x = (each.unflatten(1, part) for each, part in zip(flat, self.parts, strict=True))

        x, log_det = self.scales[-1].inverse(x, context)
        for scale, gone in zip(reversed(self.scales[:-1]), reversed(parts), strict=True):
            x, more = scale.inverse(torch.cat([x, gone], dim=1), context)
            log_det = log_det + more

        return x, log_det


class Prior(nn.Module):
    r"""Map events of a learned diagonal Gaussian to standard normals, :math:`y = e^{s} (x + t)`.

    The mean is -t and the standard deviation :math:`e^{-s}`, for each element. Both begin as those
    of standard normals; of a context, a linear map gives a change of both.

    Arguments:
        shape: of an event.
        context_features: width of the context, 0 for none.
        impl: of `ops.affine_coupling`.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, sec. 3.
    """

    def __init__(
        self, shape: Sequence[int], context_features: int = 0, *, impl: str = "auto"
    ) -> None:
        super().__init__()
        self.impl = impl
        # Log-scales, then shifts.
        self.shared = nn.Parameter(torch.zeros(2, *shape))
        self.context = None
        if context_features:
            self.context = nn.Linear(context_features, 2 * math.prod(shape), bias=False)
            nn.init.zeros_(self.context.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        return self._scaled_and_shifted(x, context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        return self._scaled_and_shifted(y, context, inverse=True)

    def _scaled_and_shifted(
        self, x: Tensor, context: Tensor | None, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        both = self.shared.expand(len(x), *self.shared.shape)
        if self.context is not None:
            both = both + self.context(context).view(both.shape)
        return affine_coupling(
            x, *both.unbind(1), shift_first=True, inverse=inverse, impl=self.impl
        )
