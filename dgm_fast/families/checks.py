"""Checks of what models are given; they look at values on a CPU, never where that would sync."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating, may_look_at

__all__ = [
    "as_shape",
    "check_event",
    "check_integers",
    "check_labels",
    "check_signal",
    "context_rows",
    "rows_of",
]


def check_event(name: str, x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless x is (B, *event_shape)."""
    if x.ndim == 0 or tuple(x.shape[1:]) != event_shape:
        raise ValueError(
            f"{name} must have shape (B, *event_shape = {event_shape}); got {tuple(x.shape)}"
        )


def check_integers(name: str, values: Tensor, high: int) -> None:
    """Raise ValueError unless all values are integers 0 .. high, where looking costs little."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or values.numel() == 0:
        return

    low_seen, high_seen = (value.item() for value in values.aminmax())
    if not (low_seen >= 0 and high_seen <= high):
        raise ValueError(f"{name} must hold values in 0 .. {high}; got {low_seen} to {high_seen}")
    if values.is_floating_point() and bool((values != values.round()).any()):
        raise ValueError(f"{name} must hold integers (as any dtype); got fractions")


def check_labels(context: Tensor, classes: int, batch: int) -> None:
    """Raise unless `context` holds a label 0 .. classes - 1 of each sample of a batch."""
    if context.dtype != torch.int64:
        raise TypeError(f"context must be int64 labels; got {context.dtype}")
    if context.shape != (batch,):
        raise ValueError(
            f"context must have shape (B,) = ({batch},), a label a sample; "
            f"got {tuple(context.shape)}"
        )

    check_integers("context", context, classes - 1)


def check_signal(name: str, x: Tensor) -> None:
    """Raise unless x is a floating-point tensor in [-1, 1], where looking costs little."""
    check_floating(name, x)
    if x.ndim == 0:
        raise ValueError(f"{name} must have a dim of time; got shape ()")
    if not may_look_at(x):
        return

    low, high = (value.item() for value in x.aminmax())
    if not (low >= -1 and high <= 1):
        raise ValueError(f"{name} must hold samples in [-1, 1]; got {low:g} to {high:g}")


def as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return the leading dims of samples as a tuple; an int counts as one dim."""
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(size < 0 for size in dims):
        raise ValueError(f"shape must not hold negative sizes; got {dims}")
    return dims


def context_rows(context: Tensor | None, shape: tuple[int, ...], *, labels: bool) -> Tensor | None:
    """Return the context of each of prod(shape) samples, one a row.

    Arguments:
        context: labels, whose dims broadcast to `shape`, or features (*, C), whose leading ones do.
        shape: leading dims of the samples.
        labels: which of the two the context is.
    """
    if context is None:
        return None

    inner = () if labels else context.shape[-1:]
    try:
        return context.expand((*shape, *inner)).reshape(math.prod(shape), *inner)
    except RuntimeError as error:
        dims = "dims" if labels else "dims before the last"
        raise ValueError(
            f"context must have {dims} that broadcast to shape = {shape}; "
            f"got {tuple(context.shape)}"
        ) from error


def rows_of(name: str, x: Tensor, shape: tuple[int, ...], inner: int) -> Tensor:
    """Return the last `inner` dims of x for each of prod(shape) samples, one a row."""
    own = x.shape[max(0, x.ndim - inner) :]
    try:
        return x.expand((*shape, *own)).reshape(math.prod(shape), *own)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must have dims before the last {inner} that broadcast to shape = {shape}; "
            f"got {tuple(x.shape)}"
        ) from error
