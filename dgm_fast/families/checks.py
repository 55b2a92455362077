"""Checks of what models are given; they look at values on a CPU, never where that would sync."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from dgm_fast._core.checks import (
    check_floating,
    check_integers,
    check_labels,
    check_rows,
    may_look_at,
    some_labels,
)

__all__ = [
    "as_shape",
    "check_event",
    "check_integers",
    "check_labels",
    "check_rows",
    "check_signal",
    "context_rows",
    "rows_of",
    "some_labels",
]


def check_event(name: str, x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless x is (B, *event_shape)."""
    if x.ndim == 0 or tuple(x.shape[1:]) != event_shape:
        raise ValueError(
            f"{name} must have shape (B, *event_shape = {event_shape}); got {tuple(x.shape)}"
        )


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

    return rows_of("context", context, shape, 0 if labels else 1)


def rows_of(name: str, x: Tensor, shape: tuple[int, ...], inner: int) -> Tensor:
    """Return the last `inner` dims of x for each of prod(shape) samples, one a row."""
    own = x.shape[max(0, x.ndim - inner) :]
    try:
        return x.expand((*shape, *own)).reshape(math.prod(shape), *own)
    except RuntimeError as error:
        dims = "dims before the last" if inner else "dims"
        dims += f" {inner}" if inner > 1 else ""
        raise ValueError(
            f"{name} must have {dims} that broadcast to shape = {shape}; got {tuple(x.shape)}"
        ) from error
