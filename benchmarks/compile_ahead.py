"""Let many processes fill Inductor's cache at once, so that the process that times need not wait.

Compiling the rivals of all workloads takes an hour one after another, most of it on one core, while
a GPU idles. Each worker runs the compiled columns of a workload once, in every direction; the
process that times then finds them in the cache, and does not report a time to compile.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from benchmarks.columns import (
    DIRECTIONS,
    InputSet,
    columns_of,
    find_ops,
    require_grad,
    timed_calls,
)
from benchmarks.measure import COMPILE_LIMIT_S, Workload, is_wanted, time_limit

Task = tuple[str, str, str, str]


def fill_cache(
    workloads: Sequence[Workload],
    wanted: Sequence[str],
    processes: int,
    report: Callable[[str], None] = lambda stage: None,
) -> None:
    """Compile the rivals of all workloads, each in one of `processes`; the cache is the caller's.

    Arguments:
        workloads: of one device; the cases are found again by name.
        wanted: names, or beginnings of names, of the columns; none of them is all of them.
        processes: how many at once.
        report: told what has been compiled.
    """
    tasks = [(w.op, w.case.name, w.dtype_name, w.device.type) for w in workloads]
    # A process that has touched a GPU cannot fork.
    context = multiprocessing.get_context("spawn")

    with ProcessPoolExecutor(processes, context, initializer=_prepare) as pool:
        pending = {pool.submit(_compile, task, tuple(wanted)): task for task in tasks}
        for done, future in enumerate(as_completed(pending), start=1):
            failed = future.result()
            report(f"{done} of {len(tasks)}: {' '.join(pending[future][:3])}{failed}")


def _prepare() -> None:
    # Inductor has a pool of its own, and these processes are already as many as the cores.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)


def _compile(task: Task, wanted: Collection[str]) -> str:
    """Run each compiled column once in every direction; return what failed, for the record."""
    op, name, dtype, device_type = task
    cases = find_ops()[op]
    case = next(each for each in cases.workloads if each.name == name)
    device = torch.device(device_type)
    inputs = case.make(device, getattr(torch, dtype), torch.Generator().manual_seed(0))
    columns, _ = columns_of(op, cases, case, device, getattr(torch, dtype))
    compiled = [each for each in columns if each.is_compiled and is_wanted(each.name, wanted)]

    failed = ""
    for direction in DIRECTIONS if case.leaves(inputs) else DIRECTIONS[:1]:
        backward = direction == "forward_backward"
        require_grad(case, inputs, backward)
        for column in compiled:
            try:
                with time_limit(COMPILE_LIMIT_S):
                    timed_calls(column, [InputSet(inputs)], backward)[0].call()
            except Exception as error:
                # The process that times meets it again, and says so in its table.
                failed += f" ({column.name} {direction}: {type(error).__name__})"

    return failed
