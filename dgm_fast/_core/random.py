"""Seeds of the counter-based random streams."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating, is_on


def draw_seed(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draw a Philox key from torch's generator, so that `torch.manual_seed` governs it.

    Shapes:
        Returns an int64 scalar tensor on `device`; it stays there, so drawing never syncs a GPU
        and a CUDA graph replays with fresh noise.
    """
    return torch.randint(
        -(2**63), 2**63 - 1, (), dtype=torch.int64, device=device, generator=generator
    )


def as_seed(seed: int | Tensor, device: torch.device) -> Tensor:
    """Return `seed` as the int64 scalar tensor on `device` that kernels read.

    Raises:
        TypeError: `seed` is neither an int nor an int64 tensor.
        ValueError: a tensor `seed` does not hold exactly one value or is on another device.
    """
    if isinstance(seed, int) and not isinstance(seed, bool):
        # Seeds are 64 bits without a sign; torch keeps them in two's complement.
        wrapped = (seed + 2**63) % 2**64 - 2**63
        return torch.full((), wrapped, dtype=torch.int64, device=device)

    if not isinstance(seed, Tensor) or seed.dtype != torch.int64:
        got = seed.dtype if isinstance(seed, Tensor) else type(seed).__name__
        raise TypeError(f"seed must be an int or an int64 tensor; got {got}")

    if seed.numel() != 1 or not is_on(seed, device):
        raise ValueError(
            f"seed must hold one value on {device}; got shape {tuple(seed.shape)} on {seed.device}"
        )

    return seed.reshape(())


def check_stream(sample_offset: int, stream: int) -> None:
    """Raise ValueError unless a Philox counter holds both."""
    if not 0 <= sample_offset < 2**63:
        raise ValueError(f"sample_offset must be in [0, 2^63); got {sample_offset}")
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must be in [0, 2^32); got {stream}")


def noise_or_seed(
    noise: Tensor | None,
    seed: int | Tensor | None,
    sample_offset: int,
    stream: int,
    generator: torch.Generator | None,
    like: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the noise given, as a constant, or the seed to draw it from; the other is None.

    Raises:
        TypeError: `noise` is not a floating-point tensor, or `seed` is of the wrong kind.
        ValueError: `noise` has not the shape and device of `like`, or an index is out of range.
    """
    check_stream(sample_offset, stream)
    if noise is None:
        device = like.device
        return None, draw_seed(device, generator) if seed is None else as_seed(seed, device)

    check_floating("noise", noise)
    if noise.shape != like.shape or noise.device != like.device:
        raise ValueError(
            f"noise must have shape {tuple(like.shape)} on {like.device}; "
            f"got {tuple(noise.shape)} on {noise.device}"
        )

    return noise.detach(), None
