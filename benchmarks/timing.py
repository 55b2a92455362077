"""Time several columns side by side: interleaved calls on fresh memory, medians with 20/80 %."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

MIB = 2**20
CPU_ROTATION_MIB = 64
GPU_ROTATION_MIB = 240
MAX_SETS = 512
WARM_UP_ROUNDS = 3
# Of a GPU while the CPU launches a call: an eighth of a millisecond at first, at most some ten.
SPIN_CYCLES, MOST_SPIN_CYCLES, SPIN_TRIES = 2**18, 2**24, 3


@dataclass(frozen=True)
class Spread:
    """What was measured of one column, in microseconds a call."""

    median_us: float
    p20_us: float
    p80_us: float
    repeats: int


@dataclass(frozen=True)
class Timed:
    """One call to time on one set of inputs; `reset` runs after it, outside the timed region."""

    call: Callable[[], Any]
    reset: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes:
        seconds: in all, and the most that any column may take of them for itself.
        repeats: of every column, however long they take together.
        least: of a column that has used up its seconds.
        most: of any column.
    """

    seconds: float = 10.0
    repeats: int = 30
    least: int = 5
    most: int = 2000

    def is_spent(self, samples_us: Sequence[float]) -> bool:
        """Whether a column has had its share: a slow one must not keep all others waiting."""
        count = len(samples_us)
        return count >= self.most or (count >= self.least and sum(samples_us) > 1e6 * self.seconds)

    def goes_on(self, rounds: int, elapsed_s: float) -> bool:
        """Whether the columns that have not had their share need another round."""
        return rounds < self.repeats or elapsed_s < self.seconds


QUICK = Budget(seconds=1.0, repeats=7, least=3, most=200)


def interleave(
    columns: Mapping[str, Sequence[Timed]],
    device: torch.device,
    budget: Budget | None = None,
    *,
    with_launches: bool = False,
) -> dict[str, Spread]:
    """Time every column once a round, in a new order each round, until the budget is spent.

    A machine that slows down, another process that wakes up or a clock that drops then strikes
    all columns alike. Each call takes the next set of inputs, whichever column it belongs to, so
    that no column finds in the cache what the column before it has read.

    Arguments:
        columns: for each name its calls, one a set of inputs.
        device: where the calls run.
        budget: when to stop; default `Budget()`.
        with_launches: whether a call on a GPU includes waiting for the CPU to launch it.

    Raises:
        ValueError: a column has no calls.
    """
    for name, calls in columns.items():
        if len(calls) == 0:
            raise ValueError(f"columns must have at least one call each; got none for {name!r}")

    budget = Budget() if budget is None else budget
    rounds = _Rounds(columns, device, with_launches)
    begin = time.perf_counter()
    while rounds.count < WARM_UP_ROUNDS and time.perf_counter() - begin < budget.seconds:
        rounds.run(list(columns))
    rounds.forget()

    collecting = gc.isenabled()
    gc.disable()
    try:
        _run_all(rounds, budget)
    finally:
        if collecting:
            gc.enable()

    return {name: spread(samples) for name, samples in rounds.samples_us.items()}


def _run_all(rounds: _Rounds, budget: Budget) -> None:
    begin = time.perf_counter()

    while budget.goes_on(rounds.count, time.perf_counter() - begin):
        names = [name for name, us in rounds.samples_us.items() if not budget.is_spent(us)]
        if not names:
            break

        rounds.run(names)


def spread(samples_us: Sequence[float]) -> Spread:
    """Return the median and the 20 % and 80 % quantiles."""
    p20, median, p80 = np.percentile(samples_us, [20, 50, 80])
    return Spread(float(median), float(p20), float(p80), len(samples_us))


class _Rounds:
    def __init__(
        self, columns: Mapping[str, Sequence[Timed]], device: torch.device, with_launches: bool
    ) -> None:
        self.columns = columns
        on_gpu = device.type == "cuda"
        # One for each column, because a spin suits its launches.
        self.clocks = {n: _CudaClock(with_launches) if on_gpu else _cpu_clock for n in columns}
        self.order = random.Random(0)
        self.calls = 0
        self.forget()

    def forget(self) -> None:
        self.count = 0
        self.samples_us: dict[str, list[float]] = {name: [] for name in self.columns}

    def run(self, names: list[str]) -> None:
        self.order.shuffle(names)

        for name in names:
            sets = self.columns[name]
            timed = sets[self.calls % len(sets)]
            self.samples_us[name].append(self.clocks[name](timed))
            self.calls += 1
        self.count += 1


def _cpu_clock(timed: Timed) -> float:
    begin = time.perf_counter_ns()
    result = timed.call()
    elapsed_us = (time.perf_counter_ns() - begin) / 1e3
    # Freeing the result is not the call's work.
    del result
    timed.reset()
    return elapsed_us


class _CudaClock:
    """Time calls on a GPU, which spins before each while the CPU launches it, if it is to.

    Without a spin a call of a few microseconds is timed by how long its launch takes, and by how
    far the call before it let the CPU run ahead. A call that waits for the GPU itself, or launches
    more than a queue holds, shows its launches however long the spin.
    """

    def __init__(self, with_launches: bool) -> None:
        self.tries = 1 if with_launches else SPIN_TRIES
        self.cycles = 0 if with_launches else SPIN_CYCLES

    def __call__(self, timed: Timed) -> float:
        for _ in range(self.tries):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if self.cycles > 0:
                torch.cuda._sleep(self.cycles)
            begin.record()
            result = timed.call()
            end.record()
            in_time = not begin.query()
            del result
            timed.reset()

            end.synchronize()
            if in_time:
                break
            self.cycles = min(2 * self.cycles, MOST_SPIN_CYCLES)

        return begin.elapsed_time(end) * 1e3


def rotation_mib(device: torch.device) -> float:
    """Return how much memory the sets of inputs must fill so that no call finds its own cached.

    More than the last cache on a CPU and four times the L2 of an H200 on a GPU, less where the
    machine has not the memory.
    """
    if device.type == "cuda":
        return min(GPU_ROTATION_MIB, torch.cuda.mem_get_info(device)[0] / MIB / 16)

    wanted = max(CPU_ROTATION_MIB, 2 * _last_cache_mib())
    return min(wanted, psutil.virtual_memory().available / MIB / 16)


def _last_cache_mib() -> float:
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    kib = [int(size.read_text().strip().removesuffix("K")) for size in sizes]
    return max(kib, default=0) / 1024


def fresh_sets(inputs: dict[str, Any], total_mib: float) -> list[dict[str, Any]]:
    """Return copies of `inputs` that lie in memory of their own and fill `total_mib` together.

    The values are the same; it is the memory that a cache must not hold. What is not a tensor,
    such as the structure of a mask, is shared.
    """
    size = sum(value.nbytes for value in inputs.values() if isinstance(value, Tensor))
    wanted = 1 if size == 0 else int(np.ceil(total_mib * MIB / size))
    count = min(MAX_SETS, max(2, wanted)) if size else 1

    copies = [
        {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        for _ in range(count - 1)
    ]
    return [inputs, *copies]
