"""What samplers whose kernels run in blocks of a GPU's threads ask of it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dgm_fast._core.integers import ceil_div

__all__ = [
    "QUAD",
    "ROWS",
    "SEGMENTS",
    "TASKS",
    "bytes_of",
    "most_sums",
    "shares_too_much",
    "sums_of_parts",
    "too_large",
    "too_old",
]

# As in csrc: common/block_products.h and common/block_draws.h.
TASKS, MOST_TASKS, QUAD, ROWS, SEGMENTS = 256, 1024, 4, 8, 32
# The oldest GPU that the extension is compiled for.
_CAPABILITY = (8, 0)
# Places among floats are 32-bit integers.
_MOST_FLOATS = 2**31


def too_old(device: torch.device) -> str | None:
    """Return why kernels do not run on a GPU of its age, or None when they do."""
    gpu = torch.cuda.get_device_properties(device)
    if (gpu.major, gpu.minor) >= _CAPABILITY:
        return None
    return f"it needs compute capability 8.0; {gpu.name} has {gpu.major}.{gpu.minor}"


def shares_too_much(device: torch.device, bytes_: int, sample: str) -> str | None:
    """Return why a block of one sample does not fit the memory of a GPU's block, or None.

    Arguments:
        device: the GPU.
        bytes_: that the threads of the block share.
        sample: what a sample is called.
    """
    gpu = torch.cuda.get_device_properties(device)
    has = gpu.shared_memory_per_block_optin
    if bytes_ <= has:
        return None
    return f"{sample} needs {bytes_} bytes of shared memory, of which {gpu.name} has {has}"


def too_large(sizes: Iterable[tuple[str, int]]) -> str | None:
    """Return why places in arrays cannot be counted, or None.

    Arguments:
        sizes: what each array is, and how many floats it has.
    """
    for what, floats in sizes:
        if floats >= _MOST_FLOATS:
            return f"{what} must hold less than {_MOST_FLOATS} floats; got {floats}"
    return None


def sums_of_parts(ins: int, outs: int) -> int:
    """Return how many sums of parts of its rows a product leaves, as `Cut` cuts it."""
    chunks, quads = ceil_div(ins, ROWS), outs // QUAD
    most = TASKS // quads if 2 * quads <= TASKS else _parts_of_many(chunks, quads)
    each = max(1, ceil_div(chunks, most))
    return max(1, ceil_div(chunks, each)) * outs


def _parts_of_many(chunks: int, quads: int) -> int:
    """Return how many parts are done the soonest, of columns for which threads take turns."""

    def chunks_in_all(parts: int) -> int:
        return ceil_div(quads * parts, TASKS) * ceil_div(chunks, parts)

    return min((p for p in (1, 2, 4) if p == 1 or quads * p <= MOST_TASKS), key=chunks_in_all)


def most_sums(outs: int) -> int:
    """Return the most sums of parts that a product with so many columns leaves."""
    quads = outs // QUAD
    return QUAD * max(quads, TASKS if 2 * quads <= TASKS else MOST_TASKS)


def bytes_of(sizes: Iterable[int]) -> int:
    """Return the bytes of arrays of so many floats each, all of which begin at a quad."""
    return 4 * sum(ceil_div(size, QUAD) * QUAD for size in sizes)
