"""Which networks the CUDA samplers of sequences run: what a block of threads shares has to fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.panels import padded, whole_rows

__all__ = ["block_bytes", "matrix_floats", "sums_of_parts", "unavailable_reason"]

# As in csrc: common/block_products.h and common/block_draws.h, and cuda.cu of the samplers.
_TASKS, _QUAD, _ROWS, _SEGMENTS = 256, 4, 8, 32
_MOST_LAYERS = 32
# Places among floats are 32-bit integers.
_MOST_FLOATS = 2**31
# The oldest GPU that the extension is compiled for.
_CAPABILITY = (8, 0)


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
    gpu = torch.cuda.get_device_properties(device)
    if (gpu.major, gpu.minor) < _CAPABILITY:
        return f"it needs compute capability 8.0; {gpu.name} has {gpu.major}.{gpu.minor}"
    if layers > _MOST_LAYERS:
        return f"it has at most {_MOST_LAYERS} layers; got {layers}"
    for what, floats in largest:
        if floats >= _MOST_FLOATS:
            return f"{what} must hold less than {_MOST_FLOATS} floats; got {floats}"

    has = gpu.shared_memory_per_block_optin
    if needed > has:
        return f"a sequence needs {needed} bytes of shared memory, of which {gpu.name} has {has}"
    return None


def block_bytes(own: Sequence[int], outputs: int, sums: int) -> int:
    """Return what a block of one sequence shares: floats of the network's own, and of the draw.

    Arguments:
        own: parts of the network's own.
        outputs: of the head.
        sums: the most that a product leaves.
    """
    parts = [*own, padded(outputs), sums, _SEGMENTS, 2 * _SEGMENTS, 1]
    return 4 * sum(ceil_div(part, _QUAD) * _QUAD for part in parts)


def sums_of_parts(ins: int, outs: int) -> int:
    """Return how many sums of parts of its rows a product leaves, as `Cut` cuts it."""
    pieces = ceil_div(ins, _ROWS)
    each = ceil_div(pieces, max(1, _TASKS // (outs // _QUAD)))
    return ceil_div(pieces, each) * outs


def matrix_floats(ins: int, outs: int) -> int:
    """Return how many floats a matrix has with its padding."""
    return whole_rows(ins) * padded(outs)
