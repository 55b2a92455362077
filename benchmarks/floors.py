"""The least time a call can take: its bytes at copy bandwidth, its FLOPs at the matmul rate."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from dgm_fast._core.cases import Cost

COPIES = 7
COPY_BYTES = 2**28
MATMUL_SECONDS = 0.2
MATMUL_SIZES = (512, 1024, 2048, 4096, 8192)


@functools.cache
def copy_rate(device: torch.device) -> float:
    """Return bytes a second, read and written counted apart, of copying 256 MiB of random data."""
    source = torch.randn(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _fastest_s(lambda: target.copy_(source), device)


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return FLOPs a second of a square product of random matrices, as large as time allows."""
    rate = 0.0

    for size in MATMUL_SIZES:
        # Zeros draw less power and run at higher clocks: never time them.
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = _fastest_s(functools.partial(torch.mm, a, b), device)
        rate = max(rate, 2 * size**3 / seconds)
        if 8 * COPIES * seconds > MATMUL_SECONDS:
            break

    return rate


def floor_us(cost: Cost, device: torch.device, dtype: torch.dtype) -> float:
    """Return the larger of the two times."""
    seconds = max(cost.bytes_moved / copy_rate(device), cost.flops / matmul_rate(device, dtype))
    return seconds * 1e6


def _fastest_s(call: Callable[[], object], device: torch.device) -> float:
    call()
    return min(_elapsed_s(call, device) for _ in range(COPIES))


def _elapsed_s(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
