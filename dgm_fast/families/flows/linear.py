"""Steps that mix all features linearly."""

from __future__ import annotations

from torch import Tensor, nn

from dgm_fast.layers import ActNorm, Invertible1x1Conv

__all__ = ["LinearStep"]


class LinearStep(nn.Module):
    r"""Standardize the features by the first batch, then mix them: :math:`y = W (s \odot x + b)`.

    Arguments:
        features: D.
        plu: hold W by its factors; else in full.
        impl: of the ops.

    Shapes:
        x (B, D, *) -> y (B, D, *), log_det (B,).
    """

    def __init__(self, features: int, *, plu: bool = True, impl: str = "auto") -> None:
        super().__init__()
        self.normalize = ActNorm(features, impl=impl)
        self.mix = Invertible1x1Conv(features, plu=plu, impl=impl)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        x, log_det = self.normalize(x)
        y, more = self.mix(x)
        return y, log_det + more

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        x, log_det = self.mix.inverse(y)
        x, more = self.normalize.inverse(x)
        return x, log_det + more
