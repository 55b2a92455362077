"""Measure one workload: verify every column, time them together, then their peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from benchmarks.timing import Budget, Timed, fresh_sets, interleave, rotation_mib
from benchmarks.verify import Expected, RedContract
from dgm_fast._core.cases import OpCase, OpCases


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
    """What came out: measurements, and why each column that is missing is missing."""

    measurements: list[Measurement] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(
    workload: Workload,
    budget: Budget,
    wanted: Sequence[str] = (),
    report: Callable[[str], None] = lambda stage: None,
) -> Outcome:
    """Measure every column of a workload, forward and forward with backward apart.

    Arguments:
        workload: what to measure.
        budget: of one direction.
        wanted: names, or beginnings of names, of the columns; none of them is all of them. The
            reference always runs, because speed-ups are over it.
        report: told what is being done.

    Raises:
        RedContract: a column of ours is wrong on this workload.
    """
    case, device = workload.case, workload.device
    inputs = case.make(device, workload.dtype, torch.Generator().manual_seed(0))
    sets = [InputSet(each) for each in fresh_sets(inputs, rotation_mib(device))]

    columns, skipped = columns_of(workload.op, workload.cases, case, device, workload.dtype)
    columns = [each for each in columns if _is_wanted(each.name, wanted)]

    outcome = Outcome(skipped={k: v for k, v in skipped.items() if _is_wanted(k, wanted)})
    for direction in DIRECTIONS if case.leaves(inputs) else DIRECTIONS[:1]:
        report(f"{case.name} {workload.dtype_name} {direction}")
        _Direction(workload, direction, sets, outcome).measure(columns, budget)

    require_grad(case, inputs, False)
    return outcome


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or name == "eager" or any(name.startswith(each) for each in wanted)


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
            try:
                self._verify(expected, column)
                calls[column.name] = timed_calls(column, self.sets, self.backward)
            except Exception as error:
                # Only what is not ours may fail: a library that is missing, a compiler that is.
                if column.is_ours or column.name == "eager":
                    raise
                self.outcome.skipped[column.name] = _first_line(error)
        del expected

        spreads = interleave(calls, work.device, budget)
        self._collect(calls, spreads)

    def _verify(self, expected: Expected, column: Column) -> None:
        begin = time.perf_counter()
        expected.check(column, self.sets[0], self.backward)

        if column.name.startswith("compile_"):
            self.compile_s[column.name] = time.perf_counter() - begin

    def _collect(self, calls: dict[str, list[Timed]], spreads: dict) -> None:
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


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return (
        text.splitlines()[0]
        if isinstance(error, RedContract | ImportError)
        else (f"{type(error).__name__}: {text.splitlines()[0]}")
    )
