"""The affine coupling of RealNVP and Glow, and with no scale the additive one of NICE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dgm_fast.layers.coupling import Coupling
from dgm_fast.ops import affine_coupling

__all__ = ["AffineCoupling"]


class AffineCoupling(Coupling):
    r"""Scale and shift one part of x by what a network makes of the other.

    .. math:: y_{rest} = x_{rest} \odot e^{s} + t, \quad
              (u, t) = conditioner(x_{kept}, context), \quad s = \mathrm{scale\_map}(u)

    The conditioner puts out twice as many channels as are transformed (all of x's with a mask):
    the raw log-scales u first, then the shifts t. With `additive=True` it puts out the shifts
    alone, s is 0 and so is the log-determinant.

    Arguments:
        conditioner, kept, part, mask: as in `Coupling`.
        additive: shift only.
        scale_map, bound, shift_first: as in `ops.affine_coupling`.
        rescaled_channels: where positive, u is replaced by w * tanh(u) with a learned factor w for
            each of so many channels, 1 at first, as in RealNVP.
        impl: of `ops.affine_coupling`.

    Shapes:
        x (B, C, *E) -> y (B, C, *E), log_det (B,).

    Precision:
        y has the dtype that x and the parameters promote to, so x stays float32 where
        autocast runs the conditioner in bfloat16. log_det is in nats, at least float32.

    Raises:
        ValueError, TypeError: as `Coupling` and `ops.affine_coupling`.

    References:
        Dinh, Krueger, Bengio, "NICE: Non-linear Independent Components Estimation", 2014, sec. 3.2.
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017, eq. 4-8.
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, table 1.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import AffineCoupling
        >>> coupling = AffineCoupling(torch.nn.Linear(2, 6), kept=2)
        >>> x = torch.randn(4, 5)
        >>> y, log_det = coupling(x)
        >>> torch.allclose(coupling.inverse(y)[0], x, atol=1e-5)
        True
    """

    def __init__(
        self,
        conditioner: nn.Module,
        *,
        kept: int | None = None,
        part: Literal["last", "first"] = "last",
        mask: Tensor | None = None,
        additive: bool = False,
        scale_map: str = "exp",
        bound: float | None = None,
        shift_first: bool = False,
        rescaled_channels: int = 0,
        impl: str = "auto",
    ) -> None:
        super().__init__(conditioner, kept=kept, part=part, mask=mask)
        if additive and rescaled_channels:
            raise ValueError(
                f"rescaled_channels must be 0 without a scale; got {rescaled_channels}"
            )

        self.additive = additive
        self.scale_map = scale_map
        self.bound = bound
        self.shift_first = shift_first
        self.impl = impl
        # Conditioners often begin with a last layer of zeros: w of 0 as well would never move.
        factor = nn.Parameter(torch.ones(rescaled_channels)) if rescaled_channels else None
        self.register_parameter("factor", factor)

    def elementwise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Scale and shift, or undo it."""
        log_scale, shift = (None, parameters) if self.additive else parameters.chunk(2, dim=1)
        if self.factor is not None:
            factor = self.factor.view(-1, *[1] * (x.ndim - 2))
            log_scale = factor * torch.tanh(log_scale)
            shift = shift.to(log_scale.dtype)

        return affine_coupling(
            x,
            log_scale,
            shift,
            scale_map=self.scale_map,
            bound=self.bound,
            mask=self.mask,
            part=self.part,
            shift_first=self.shift_first,
            inverse=inverse,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """Show what is kept and how the rest is scaled."""
        how = "additive" if self.additive else f"scale_map={self.scale_map!r}"
        return f"{super().extra_repr()}, {how}"
