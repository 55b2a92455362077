"""How much memory a call needs above what was there before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import MIB, Timed


def peak_mib(timed: Timed, device: torch.device) -> float:
    """Return the most memory the call held at once, its inputs left out, its results included.

    On a GPU by the statistics of torch's allocator. On a CPU by the allocations and frees that
    torch's profiler reports, in order: every tensor, those of compiled code and of extensions
    included; not what a library takes from malloc itself, such as oneDNN's packed weights.
    """
    peak = (_gpu_peak if device.type == "cuda" else _cpu_peak)(timed.call)
    timed.reset()
    return peak / MIB


def _gpu_peak(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    call()

    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _cpu_peak(call: Callable[[], object]) -> int:
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()

    events = profiler.profiler.kineto_results.events()
    changes = [(each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]"]
    held = accumulate(change for _, change in sorted(changes, key=lambda change: change[0]))
    return max(held, default=0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the profiler's C++ writes to standard error out of the progress display."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)

    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
