"""Which networks the CUDA samplers of sequences run: what a block of threads shares has to fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dgm_fast.sampling.gpu_blocks import (
    SEGMENTS,
    bytes_of,
    shares_too_much,
    too_large,
    too_old,
)
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.panels import whole_rows

__all__ = ["block_bytes", "matrix_floats", "unavailable_reason"]

# As in cuda.cu of the samplers.
_MOST_LAYERS = 32


def unavailable_reason(
    device: torch.device, layers: int, largest: Sequence[tuple[str, int]], needed: int
) -> str | None:
    """Return why a kernel cannot run a network on a GPU, or None when it can.

    Arguments:
        device: the GPU.
        layers: of the network.
        largest: what places are counted in, and how many floats it has.
        needed: bytes that a block of one sequence shares.
    """
    reason = too_old(device)
    if reason is not None:
        return reason
    if layers > _MOST_LAYERS:
        return f"it has at most {_MOST_LAYERS} layers; got {layers}"
    return too_large(largest) or shares_too_much(device, needed, "a sequence")


def block_bytes(own: Sequence[int], outputs: int, sums: int) -> int:
    """Return what a block of one sequence shares: floats of the network's own, and of the draw.

    Arguments:
        own: parts of the network's own.
        outputs: of the head.
        sums: the most that a product leaves.
    """
    return bytes_of([*own, padded(outputs), sums, SEGMENTS, 2 * SEGMENTS, 1])


def matrix_floats(ins: int, outs: int) -> int:
    """Return how many floats a matrix has with its padding."""
    return whole_rows(ins) * padded(outs)
