"""The composition of invertible modules, and what is asked of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from dgm_fast.families.flows.reversible import apply_reversibly

__all__ = ["Chain", "Inverse", "Invertible"]


class Invertible(Protocol):
    """Any `nn.Module` with these methods can be a step of a flow.

    x and y are (B, *E), of any event shapes of equally many elements; `context` is None or a
    tensor of floats with the same B; log-determinants are per sample, (B,), in nats.

    A step whose inverse and forward share work can have a method `replay(y, context)` as well,
    which `layers.Coupling` describes.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|."""

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|."""


class Chain(nn.Module):
    r"""Apply invertible steps one after the other; their log-determinants add up.

    Arguments:
        steps: modules as `Invertible` describes.
        reversible: train with memory constant in the number of steps. The forward pass then keeps
            its output alone; the backward pass recovers each step's input from its output, runs
            the step again and differentiates it. It costs a third more time a step at most where
            conditioners take nearly all of it, agrees with the stored pass up to rounding, and
            asks that no step is random (no dropout) and none updates itself (no batch norm).
            It has no second derivative, breaks a compiled graph, and leaves `inverse` as it is.

    Shapes:
        x (B, *E) -> y (B, *E'), log_det (B,).

    References:
        Gomez, Ren, Urtasun, Grosse, "The Reversible Residual Network: Backpropagation Without
        Storing Activations", 2017.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import ActNorm
        >>> chain = Chain([ActNorm(3), ActNorm(3)])
        >>> y, log_det = chain(torch.randn(10, 3))
        >>> log_det.shape
        torch.Size([10])
    """

    def __init__(self, steps: Iterable[nn.Module], *, reversible: bool = False) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.reversible = reversible

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        if self.reversible and torch.is_grad_enabled():
            return apply_reversibly(self, x, context)
        return self.apply_steps(x, context)

    def apply_steps(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply the steps in order; autograd stores what they store."""
        log_det = no_change(x)
        for step in self.steps:
            x, more = step(x, context)
            log_det = log_det + more
        return x, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        log_det = no_change(y)
        for step in reversed(self.steps):
            y, more = step.inverse(y, context)
            log_det = log_det + more
        return y, log_det

    def extra_repr(self) -> str:
        """Show how it trains."""
        return f"reversible={self.reversible}"


class Inverse(nn.Module):
    """Swap the two directions of an invertible module."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the inverse of the module."""
        return self.transform.inverse(x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the module."""
        return self.transform(y, context)


def no_change(x: Tensor) -> Tensor:
    """Return the log-determinant of a transform that keeps volumes: zeros, (B,)."""
    return x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
