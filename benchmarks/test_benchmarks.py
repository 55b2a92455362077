"""Every workload under pytest-benchmark: `pytest benchmarks --benchmark-only`.

For comparing two states of the code with pytest-benchmark's own tools. What is published comes from
`python -m benchmarks.run`, which interleaves the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.columns import (
    DIRECTIONS,
    OURS,
    InputSet,
    columns_of,
    find_ops,
    require_grad,
    timed_calls,
)
from benchmarks.timing import fresh_sets, rotation_mib
from benchmarks.verify import check_contract
from dgm_fast._core.cases import OpCase, OpCases

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COLUMNS = ("eager", f"{OURS}auto")


def _workloads() -> Iterator[object]:
    for op, cases in find_ops().items():
        for case in cases.workloads:
            if DEVICE.type in case.devices:
                directions = DIRECTIONS if case.differentiable else DIRECTIONS[:1]
                for direction in directions:
                    yield pytest.param(
                        op, cases, case, direction, id=f"{op}-{case.name}-{direction}"
                    )


@pytest.mark.parametrize(("op", "cases", "case", "direction"), list(_workloads()))
@pytest.mark.parametrize("name", COLUMNS)
def test_speed(
    benchmark: Callable, op: str, cases: OpCases, case: OpCase, direction: str, name: str
) -> None:
    check_contract(op)
    backward = direction == "forward_backward"
    inputs = case.make(DEVICE, torch.float32, torch.Generator().manual_seed(0))
    sets = [InputSet(each) for each in fresh_sets(inputs, rotation_mib(DEVICE))]
    for each in sets:
        require_grad(case, each.inputs, backward)

    columns, _ = columns_of(op, cases, case, DEVICE, torch.float32)
    calls = timed_calls(next(each for each in columns if each.name == name), sets, backward)
    place = iter(range(10**9))

    def step() -> None:
        timed = calls[next(place) % len(calls)]
        timed.call()
        timed.reset()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{op} {case.name} {direction}"
    benchmark(step)
