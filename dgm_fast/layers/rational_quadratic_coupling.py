"""The coupling of neural spline flows: one part of x is bent by splines that the other chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dgm_fast.layers.coupling import Coupling
from dgm_fast.ops import rational_quadratic_spline

__all__ = ["RationalQuadraticCoupling", "SplineShape"]

# Of `ops.rational_quadratic_spline`.
_MIN_DERIVATIVE = 1e-3


@dataclass(frozen=True)
class SplineShape:
    """The size of a spline with linear tails: K widths, K heights and K - 1 slopes make one.

    Attributes:
        bins: K.
        bound: the spline bends [-bound, bound].
    """

    bins: int = 8
    bound: float = 3.0

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1; got {self.bins}")
        if not self.bound > 0:
            raise ValueError(f"bound must be positive; got {self.bound}")

    @property
    def parameters(self) -> int:
        """Numbers that make one spline."""
        return 3 * self.bins - 1

    @torch.no_grad()
    def make_identity(self, bias: Tensor, splines: int) -> None:
        """Set a bias of `splines` times 3K-1 numbers to what makes the identity."""
        # Equal bins are the identity's already; its slopes are 1 = min + softplus(u).
        slope = math.log(math.expm1(1 - _MIN_DERIVATIVE))
        bias.zero_()
        bias.view(splines, -1)[:, 2 * self.bins :] = slope


class RationalQuadraticCoupling(Coupling):
    r"""Bend each element of one part of x by a monotonic rational-quadratic spline.

    .. math:: y_{rest} = \mathrm{spline}(x_{rest}; \theta), \quad
              \theta = conditioner(x_{kept}, context)

    The conditioner puts out 3K - 1 channels for each transformed channel: those of the first one,
    then those of the second, and so on; within them widths, heights, slopes.

    Arguments:
        conditioner, kept, part: as in `Coupling`.
        spline: number of bins and bound.
        impl: of `ops.rational_quadratic_spline`.

    Shapes:
        x (B, C, *E) -> y (B, C, *E), log_det (B,).

    Precision:
        As `ops.rational_quadratic_spline`.

    References:
        Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows", 2019, sec. 3.1.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import RationalQuadraticCoupling, SplineShape
        >>> spline = SplineShape(bins=4)
        >>> coupling = RationalQuadraticCoupling(torch.nn.Linear(2, 3 * 11), kept=2, spline=spline)
        >>> x = torch.randn(6, 5)
        >>> y, log_det = coupling(x)
        >>> torch.allclose(coupling.inverse(y)[0], x, atol=1e-4)
        True
    """

    def __init__(
        self,
        conditioner: nn.Module,
        *,
        kept: int,
        spline: SplineShape,
        part: Literal["last", "first"] = "last",
        impl: str = "auto",
    ) -> None:
        super().__init__(conditioner, kept=kept, part=part)
        self.spline = spline
        self.impl = impl

    def elementwise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Bend, or undo it."""
        transformed = x.shape[1] - self.kept
        sizes = (self.kept, transformed) if self.part == "last" else (transformed, self.kept)
        first, last = x.split(sizes, dim=1)
        rest = last if self.part == "last" else first

        # The op wants the numbers of one spline side by side: of channels-last images they are.
        parameters = parameters.unflatten(1, (transformed, self.spline.parameters)).movedim(2, -1)
        bent, log_det = rational_quadratic_spline(
            rest,
            parameters,
            bound=self.spline.bound,
            inverse=inverse,
            impl=self.impl,
        )
        parts = (first, bent) if self.part == "last" else (bent, last)
        return torch.cat([each.to(bent.dtype) for each in parts], dim=1), log_det

    def extra_repr(self) -> str:
        """Show what is kept and the spline."""
        return f"{super().extra_repr()}, {self.spline}"
