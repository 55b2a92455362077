"""The speed of this machine: every op beside plain PyTorch.

A short look, not a benchmark: interleaved medians of a few seconds on inputs that may lie in the
cache. The folder `benchmarks` of the source measures with fresh inputs, floors, spread and outside
libraries.
"""

from __future__ import annotations

import importlib
import pkgutil
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dgm_fast.ops
from dgm_fast._core.cases import Inputs, OpCases, Prepared
from dgm_fast.training.compiler import compiler_missing

__all__ = ["interleaved_medians_ms", "print_speed"]

EAGER, CHEAP, COMPILED, OURS = "eager", "cheapest eager", "compiled", "dgm_fast"
# What is plain PyTorch for random numbers is its own generator.
PLAIN = {"philox": "anchor:torch"}

Call = Callable[[], object]


def print_speed(console: Console, seconds: float = 1.5, compiled: bool = False) -> None:
    """Time the first workload of every op for about `seconds` a pass and print the table.

    Arguments:
        console: where to print.
        seconds: of a pass, forward or forward and backward.
        compiled: also time `torch.compile` of the plain version, which takes its time to compile.
    """
    missing = compiler_missing(torch.device("cpu")) if compiled else None
    columns = [EAGER, CHEAP, *([COMPILED] if compiled and missing is None else []), OURS]
    threads = torch.get_num_threads()
    table = Table("op", "pass", title=f"Milliseconds on the CPU, {threads} threads, float32")
    for column in (*columns, "speed-up"):
        table.add_column(column, justify="right", no_wrap=True)

    with console.status("timing every op against plain PyTorch") as status:
        for op, cases in op_cases().items():
            status.update(f"timing {op} against plain PyTorch")
            for direction, medians in _time_op(op, cases, columns, seconds).items():
                cells = [f"{medians[c]:.2f}" if c in medians else "-" for c in columns]
                speed_up = medians[EAGER] / medians[OURS]
                table.add_row(
                    f"{op} {cases.workloads[0].name}", direction, *cells, f"{speed_up:.2f}x"
                )

    console.print(table)
    console.print(
        "eager: what one would write in PyTorch. cheapest eager: the cheapest that gives the same, "
        "where that is something else. dgm_fast: impl='auto'; the speed-up is its own, against "
        "eager."
    )
    if missing is not None:
        console.print(f"torch.compile was left out: {missing}.", style="yellow")


def op_cases() -> dict[str, OpCases]:
    """Return the cases of every op that has a workload."""
    found = {}
    for package in pkgutil.iter_modules(dgm_fast.ops.__path__):
        if package.ispkg:
            cases = importlib.import_module(f"dgm_fast.ops.{package.name}.cases").CASES
            if cases.workloads:
                found[package.name] = cases
    return found


def interleaved_medians_ms(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Time all calls in turn for about `seconds`, at least five rounds, after two to warm up."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    start = None
    for round_ in range(1000):
        start = time.perf_counter() if round_ == 2 else start
        if round_ >= 7 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            samples[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(times[2:]) for name, times in samples.items()}


def _time_op(
    op: str, cases: OpCases, columns: list[str], seconds: float
) -> dict[str, dict[str, float]]:
    """Return, for each pass, the milliseconds of each column."""
    case = cases.workloads[0]
    generator = torch.Generator().manual_seed(0)
    inputs = case.make(torch.device("cpu"), torch.float32, generator)
    medians = {"fwd": interleaved_medians_ms(_calls(op, cases, inputs, columns), seconds)}

    leaves = case.leaves(inputs)
    if leaves:
        for leaf in leaves:
            leaf.requires_grad_()
        calls = _calls(op, cases, inputs, columns)
        medians["fwd+bwd"] = interleaved_medians_ms(calls, seconds)
    return medians


def _calls(op: str, cases: OpCases, inputs: Inputs, columns: list[str]) -> dict[str, Call]:
    leaves = cases.workloads[0].leaves(inputs)
    baseline = cases.baseline or cases.reference
    prepared = {
        EAGER: Prepared(partial(baseline, **inputs), leaves),
        OURS: Prepared(partial(cases.function, **inputs), leaves),
    }
    if op in PLAIN:
        prepared[EAGER] = cases.rivals[PLAIN[op]](inputs)
    elif COMPILED in columns:
        compiled = torch.compile(baseline, dynamic=False)
        prepared[COMPILED] = Prepared(partial(compiled, **inputs), leaves)

    if "best_eager" in cases.rivals:
        prepared[CHEAP] = cases.rivals["best_eager"](inputs)
    return {name: _with_backward(each) for name, each in prepared.items()}


def _with_backward(prepared: Prepared) -> Call:
    """Return the call, followed by its backward where a leaf asks for one."""
    if not any(leaf.requires_grad for leaf in prepared.leaves):
        return prepared.call

    outputs = _differentiable(prepared.call())
    upstream = [torch.randn_like(each, requires_grad=False) for each in outputs]
    return lambda: torch.autograd.grad(
        _differentiable(prepared.call()), prepared.leaves, upstream, allow_unused=True
    )


def _differentiable(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    outputs = result if isinstance(result, tuple) else (result,)
    return [each for each in outputs if each.requires_grad]
