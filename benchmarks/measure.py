"""Measure one workload: verify every column, time them together, then their peak memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from benchmarks import floors, memory
from benchmarks.columns import (
    DIRECTIONS,
    Column,
    InputSet,
    columns_of,
    require_grad,
    timed_calls,
)
from benchmarks.record import Measurement, measurement
from benchmarks.timing import Budget, Spread, Timed, fresh_sets, interleave, rotation_mib
from benchmarks.verify import Expected
from dgm_fast._core.cases import OpCase, OpCases

# Inductor inlines a chain of pointwise products whose values are used twice, such as the rounds of
# Philox, and takes time exponential in its length.
COMPILE_LIMIT_S = 120


@dataclass(frozen=True)
class Workload:
    """What to measure: a case of an op, on a device, in a dtype."""

    op: str
    cases: OpCases
    case: OpCase
    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """The dtype as it appears in a row."""
        return str(self.dtype).removeprefix("torch.")


@dataclass
class Outcome:
    """What came out.

    Attributes:
        measurements: of every column that ran.
        skipped: why each of the others did not.
        gave_up: those that did not compile in time, and will not on another workload either.
    """

    measurements: list[Measurement] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    gave_up: set[str] = field(default_factory=set)


def measure(
    workload: Workload,
    budget: Budget,
    wanted: Sequence[str] = (),
    without: Collection[str] = (),
    report: Callable[[str], None] = lambda stage: None,
) -> Outcome:
    """Measure every column of a workload, forward and forward with backward apart.

    Arguments:
        workload: what to measure.
        budget: of one direction.
        wanted: names, or beginnings of names, of the columns; none of them is all of them. The
            reference always runs, because speed-ups are over it.
        without: names of columns to leave out.
        report: told what is being done.

    Raises:
        RedContract: a column of ours is wrong on this workload.
    """
    case, device = workload.case, workload.device
    inputs = case.make(device, workload.dtype, torch.Generator().manual_seed(0))
    sets = [InputSet(each) for each in fresh_sets(inputs, rotation_mib(device))]

    columns, skipped = columns_of(workload.op, workload.cases, case, device, workload.dtype)
    columns = [each for each in columns if is_wanted(each.name, wanted, without)]

    outcome = Outcome(skipped={k: v for k, v in skipped.items() if is_wanted(k, wanted, without)})
    for direction in DIRECTIONS if case.leaves(inputs) else DIRECTIONS[:1]:
        report(f"{case.name} {workload.dtype_name} {direction}")
        _Direction(workload, direction, sets, outcome).measure(columns, budget)

    require_grad(case, inputs, False)
    return outcome


def is_wanted(name: str, wanted: Collection[str], without: Collection[str] = ()) -> bool:
    """Whether a column is among those asked for, by the beginnings of their names."""
    if name in without:
        return False

    return not wanted or name == "eager" or name.startswith(tuple(wanted))


class _Direction:
    def __init__(
        self, workload: Workload, direction: str, sets: Sequence[InputSet], outcome: Outcome
    ) -> None:
        self.workload = workload
        self.direction = direction
        self.backward = direction == "forward_backward"
        self.sets = sets
        self.outcome = outcome
        self.compile_s: dict[str, float] = {}

        for each in sets:
            require_grad(workload.case, each.inputs, self.backward)

    def measure(self, columns: Sequence[Column], budget: Budget) -> None:
        work = self.workload
        expected = Expected(work.cases, work.case, self.sets[0], self.backward)

        calls = {}
        for column in columns:
            if column.name in self.outcome.gave_up:
                continue

            try:
                self._verify(expected, column)
                calls[column.name] = timed_calls(column, self.sets, self.backward)
            except Exception as error:
                # Only what is not ours may fail: a library that is missing, a compiler that is.
                if column.is_ours or column.name == "eager":
                    raise
                self._skip(column, error)
        del expected

        spreads = interleave(calls, work.device, budget)
        self._collect(calls, spreads)

    def _skip(self, column: Column, error: Exception) -> None:
        self.outcome.skipped[column.name] = f"{type(error).__name__}: {error}".splitlines()[0]
        # Inductor wraps what it catches.
        if TimeoutError.__name__ in self.outcome.skipped[column.name]:
            self.outcome.gave_up.add(column.name)

    def _verify(self, expected: Expected, column: Column) -> None:
        if not column.is_compiled:
            expected.check(column, self.sets[0], self.backward)
            return

        begin = time.perf_counter()
        with time_limit(COMPILE_LIMIT_S):
            expected.check(column, self.sets[0], self.backward)
        # What a cache held was compiled before.
        if torch.compiler.config.force_disable_caches:
            self.compile_s[column.name] = time.perf_counter() - begin

    def _collect(self, calls: dict[str, list[Timed]], spreads: dict[str, Spread]) -> None:
        work = self.workload
        place = work.op, work.case.name, work.dtype_name, self.direction
        floor_us = None
        if work.case.cost is not None:
            cost = work.case.cost(self.sets[0].inputs, self.backward)
            floor_us = floors.floor_us(cost, work.device, work.dtype)

        for name, spread in spreads.items():
            self.outcome.measurements.append(
                measurement(
                    place,
                    name,
                    spread,
                    spreads["eager"],
                    floor_us=floor_us,
                    peak_mib=memory.peak_mib(calls[name][0], work.device),
                    compile_s=self.compile_s.get(name),
                )
            )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError when the block takes longer; on the main thread of a POSIX process."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not compiled within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
