"""Which implementation a sampler runs on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast._core.implementation import ImplementationUnavailable, requested
from dgm_fast._core.op import Op

__all__ = ["choose", "choose_by_size", "impl_of_model"]


def choose(
    op: Op,
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    reason_of: Callable[[str], str | None] = lambda chosen: None,
    is_faster: Callable[[str], bool] = lambda chosen: True,
) -> str:
    """Return `"reference"` or the kernel's name that a sampler runs on.

    Arguments:
        op: the sampler's.
        impl: what was asked for.
        device: of the network.
        dtype: that it computes in.
        reason_of: why a kernel cannot run this network, or None when it can.
        is_faster: whether `auto` should take a kernel that can, sooner than the reference.

    Raises:
        ImplementationUnavailable: the kernel asked for by name cannot run.
    """
    known = ("auto", "reference", *op.implementations)
    # A block or a process that asks its ops for a kernel that samplers do not have is taken to want
    # none of theirs.
    if impl == "auto" and requested(impl) not in known:
        return "reference"

    chosen = op.choose(impl, device, dtype)
    if chosen == "reference":
        return chosen
    reason, is_asked_for = reason_of(chosen), requested(impl) == chosen
    if reason is not None and is_asked_for:
        raise ImplementationUnavailable(f"{op.name}: impl={chosen!r} cannot run: {reason}")
    return chosen if reason is None and (is_asked_for or is_faster(chosen)) else "reference"


def choose_by_size(
    op: Op,
    impl: str,
    weight: Tensor,
    unavailable_reason: Callable[[], str | None],
    is_small: Callable[[], bool],
) -> str:
    """Return what a sampler runs on whose kernel on a GPU is for small networks.

    Arguments:
        op: the sampler's.
        impl: what was asked for.
        weight: one of the network's, in the dtype that it computes in.
        unavailable_reason: why a GPU's kernel cannot run it, or None.
        is_small: whether that is faster than a CUDA graph of the reference.
    """

    def reason_of(chosen: str) -> str | None:
        return unavailable_reason() if chosen == "cuda" else None

    def is_faster(chosen: str) -> bool:
        return chosen != "cuda" or is_small()

    return choose(op, impl, weight.device, weight.dtype, reason_of, is_faster)


def impl_of_model(impl: str) -> str:
    """Return what a model's `impl` asks of its sampler: names that only ops have ask nothing."""
    return impl if impl in ("reference", "cpp", "cuda") else "auto"
