"""An invertible 1x1 convolution: a learned rotation of the channels, with its log-determinant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgm_fast.ops import PLU, invertible_1x1


class Invertible1x1Conv(nn.Module):
    r"""Mix the channels of every pixel by an invertible matrix, `y = W x`.

    W starts as a random rotation. By its factors, `W = P L (U + diag(sign * exp(log_diag)))`, it
    stays invertible whatever the optimizer does, and its log-determinant is a sum; in full it has
    the parameters of a plain 1x1 convolution. Either way the state_dict says all of it:

    - by factors: the parameters `lower` (C, C), read below the diagonal, `upper` (C, C), read above
      it, and `log_diag` (C,); the buffers `permutation` (C,) int64 and `sign` (C,), which are drawn
      with W and fixed;
    - in full: the parameter `weight` (C, C).

    An activation normalisation before it can be folded in, `y = W e^{log_scale} (x + shift)`, at no
    cost: hand its parameters to `forward` and `inverse`. So can `log_abs_det`, the
    log-determinant of a full weight, to `forward`: `ops.batched_log_abs_det` gives those of all
    layers of a model in one call.

    Arguments:
        channels: C.
        plu: by its factors; else in full.
        impl: as in `ops.invertible_1x1`.
        device: of the parameters.
        dtype: of the parameters; float32 serves pixels of any lower precision.

    Shapes:
        (B, C, *) -> (B, C, *) and (B,), in nats; `*` is any number of dims, none included.

    Raises:
        TypeError, ValueError: as `ops.invertible_1x1`; `channels` is not positive.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import Invertible1x1Conv
        >>> layer, x = Invertible1x1Conv(6), torch.randn(2, 6, 8, 8)
        >>> y, log_det = layer(x)
        >>> back, _ = layer.inverse(y)
        >>> bool(torch.allclose(back, x, atol=1e-5))
        True
    """

    def __init__(
        self,
        channels: int,
        *,
        plu: bool = True,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1; got {channels}")

        self.channels, self.plu, self.impl = channels, plu, impl
        empty = torch.empty(channels, channels, device=device, dtype=dtype)
        if plu:
            self.lower = nn.Parameter(empty)
            self.upper = nn.Parameter(torch.empty_like(empty))
            self.log_diag = nn.Parameter(torch.empty_like(empty[0]))
            self.register_buffer("permutation", torch.empty_like(empty[0], dtype=torch.int64))
            self.register_buffer("sign", torch.empty_like(empty[0]))
        else:
            self.weight = nn.Parameter(empty)

        self.reset_parameters()

    @classmethod
    def from_weight(
        cls, weight: Tensor, *, plu: bool = True, impl: str = "auto"
    ) -> Invertible1x1Conv:
        """Make a layer whose matrix is `weight` (C, C), such as a trained model's."""
        layer = cls(len(weight), plu=plu, impl=impl, device=weight.device, dtype=weight.dtype)
        layer.load_weight(weight)
        return layer

    def reset_parameters(self) -> None:
        """Draw a rotation, uniformly among all, from torch's default generator."""
        # A QR factorisation is unique, and its Q uniform, once the diagonal of R is positive.
        draws = torch.randn(self.channels, self.channels, dtype=torch.float64)
        q, r = torch.linalg.qr(draws)
        self.load_weight(q * r.diagonal().sign())

    @torch.no_grad()
    def load_weight(self, weight: Tensor) -> None:
        """Make the matrix `weight` (C, C), in full or factored, as the layer keeps it.

        Raises:
            ValueError: `weight` has another shape, or is singular.
        """
        if tuple(weight.shape) != (self.channels, self.channels):
            raise ValueError(
                f"weight must have shape (C, C) = {(self.channels, self.channels)}; "
                f"got {tuple(weight.shape)}"
            )
        if not self.plu:
            self.weight.copy_(weight)
            return

        factors = PLU.from_weight(weight)
        # Without data there is nothing to look at.
        if not factors.log_diag.is_meta and not factors.log_diag.isfinite().all():
            raise ValueError(f"weight must be invertible; got log_diag {factors.log_diag.tolist()}")
        for name, value in factors._asdict().items():
            getattr(self, name).copy_(value)

    def matrix(self) -> Tensor | PLU:
        """Return W as `ops.invertible_1x1` takes it."""
        if not self.plu:
            return self.weight

        return PLU(self.permutation, self.lower, self.upper, self.log_diag, self.sign)

    def full_weight(self) -> Tensor:
        """Return W, (C, C)."""
        matrix = self.matrix()
        return matrix.weight() if isinstance(matrix, PLU) else matrix

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        log_scale: Tensor | None = None,
        shift: Tensor | None = None,
        log_abs_det: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,); the context is not read."""
        return invertible_1x1(
            x, self.matrix(), log_scale, shift, log_abs_det=log_abs_det, impl=self.impl
        )

    def inverse(
        self,
        y: Tensor,
        context: Tensor | None = None,
        *,
        log_scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        return invertible_1x1(y, self.matrix(), log_scale, shift, inverse=True, impl=self.impl)

    def extra_repr(self) -> str:
        return f"{self.channels}, plu={self.plu}"
