"""Time several columns side by side: interleaved calls on fresh memory, medians with 20/80 %."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
# Of a GPU while the CPU launches: half a millisecond at first, at most some 30.
SPIN_CYCLES, MOST_SPIN_CYCLES, SPIN_TRIES = 2**20, 2**26, 3


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
        self.measure = _measure_cpu
        if device.type == "cuda":
            self.measure = partial(_measure_cuda, _Spin(0 if with_launches else SPIN_CYCLES))
        self.order = random.Random(0)
        self.calls = 0
        self.forget()

    def forget(self) -> None:
        self.count = 0
        self.samples_us: dict[str, list[float]] = {name: [] for name in self.columns}

    def run(self, names: list[str]) -> None:
        self.order.shuffle(names)

        chosen = []
        for name in names:
            sets = self.columns[name]
            chosen.append(sets[self.calls % len(sets)])
            self.calls += 1

        for name, elapsed_us in zip(names, self.measure(chosen), strict=True):
            self.samples_us[name].append(elapsed_us)
        self.count += 1


def _measure_cpu(calls: Sequence[Timed]) -> list[float]:
    samples_us = []
    for timed in calls:
        begin = time.perf_counter_ns()
        result = timed.call()
        samples_us.append((time.perf_counter_ns() - begin) / 1e3)
        # Freeing the result is not the call's work.
        del result
        timed.reset()

    return samples_us


@dataclass
class _Spin:
    """How many cycles the GPU spins while the CPU launches a round's calls behind it."""

    cycles: int

    def lengthen(self) -> None:
        self.cycles = min(2 * self.cycles, MOST_SPIN_CYCLES)


def _measure_cuda(spin: _Spin, calls: Sequence[Timed]) -> list[float]:
    # Without a spin a call of a few microseconds is timed by how long its launch takes, and by how
    # far the call before it in the round let the CPU run ahead.
    for _ in range(SPIN_TRIES):
        if spin.cycles > 0:
            torch.cuda._sleep(spin.cycles)
        spun, events = torch.cuda.Event(), []
        spun.record()

        for timed in calls:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            result = timed.call()
            end.record()
            del result
            timed.reset()
            events.append((begin, end))

        in_time = spin.cycles == 0 or not spun.query()
        torch.cuda.synchronize()
        if in_time:
            break
        # More launches than a queue holds wait for the GPU however long it spins.
        spin.lengthen()

    return [begin.elapsed_time(end) * 1e3 for begin, end in events]


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
