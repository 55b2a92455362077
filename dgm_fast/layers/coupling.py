"""What couplings share: one part of x passes unchanged and says how the rest is transformed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn


class Coupling(nn.Module, ABC):
    r"""Base of couplings, invertible whatever the conditioner is.

    .. math:: y_{kept} = x_{kept}, \quad
              y_{rest} = f(x_{rest};\, \theta), \quad \theta = conditioner(x_{kept}, context)

    A subclass writes `elementwise`, the map f and its inverse.

    Arguments:
        conditioner: called as `conditioner(kept)`, or `conditioner(kept, context)` where there is
            a context. It must be deterministic, and no layer in it may mix the samples of a batch.
        kept: number of leading channels (dim 1) that pass unchanged, or of trailing ones with
            `part="first"`; the conditioner sees them alone.
        part: which channels are transformed, the last or the first ones.
        mask: instead of `kept`, the elements that pass unchanged: bool, True = kept, of a shape
            that broadcasts to one sample's. The conditioner sees the whole x, zero where
            transformed, and has parameters for every element.

    Raises:
        ValueError: not exactly one of `kept` and `mask` is given.
    """

    mask: Tensor | None

    def __init__(
        self,
        conditioner: nn.Module,
        *,
        kept: int | None = None,
        part: Literal["last", "first"] = "last",
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (kept is None) == (mask is None):
            raise ValueError(f"kept or mask must be given, and not both; got {kept} and {mask}")
        if kept is not None and kept < 1:
            raise ValueError(f"kept must be at least 1; got {kept}")
        if part not in ("last", "first"):
            raise ValueError(f"part must be 'last' or 'first'; got {part!r}")

        self.conditioner = conditioner
        self.kept = kept
        self.part = part
        # It follows from the constructor's arguments, as the rest of the architecture does.
        self.register_buffer("mask", None if mask is None else mask.bool(), persistent=False)

    @abstractmethod
    def elementwise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Transform what is not kept of x, copy the rest, and return it all with log_det (B,)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        return self.elementwise(x, self.parameters_of(x, context), False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        return self.elementwise(y, self.parameters_of(y, context), True)

    def replay(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Recover x from y and run forward again: (x, a leaf; y; log_det), with their graph.

        Inverse and forward share one call of the conditioner, which is nearly all of the cost.
        """
        x = y.detach().requires_grad_()
        with torch.enable_grad():
            # The kept half is already right, so the graph from x to the parameters is too.
            parameters = self.parameters_of(x, context)
            with torch.no_grad():
                recovered, _ = self.elementwise(y, parameters, True)
            # Only the other half changes, and no tensor that the graph has saved: those are views
            # of y or copies. An assignment within autograd would cut the graph from its leaf.
            x.data = recovered
            return x, *self.elementwise(x, parameters, False)

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return what the conditioner makes of the kept part."""
        kept = self._kept_part(x)
        return self.conditioner(kept) if context is None else self.conditioner(kept, context)

    def _kept_part(self, x: Tensor) -> Tensor:
        if self.mask is not None:
            return torch.where(self.mask, x, 0)

        C = x.shape[1] if x.ndim > 1 else 0
        if self.kept >= C:
            raise ValueError(
                f"x must have more than kept = {self.kept} channels (dim 1); got {tuple(x.shape)}"
            )
        return x.narrow(1, 0 if self.part == "last" else C - self.kept, self.kept)

    def extra_repr(self) -> str:
        """Show what is kept."""
        if self.mask is not None:
            return f"mask={tuple(self.mask.shape)}"
        return f"kept={self.kept}, part={self.part!r}"
