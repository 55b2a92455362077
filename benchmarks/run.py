"""Time every op beside its rivals and record the rows: `python -m benchmarks.run`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import record, report
from benchmarks.columns import find_ops
from benchmarks.compile_ahead import fill_cache
from benchmarks.measure import Workload, measure
from benchmarks.timing import QUICK, Budget
from benchmarks.verify import RedContract, check_contract, check_report
from dgm_fast._core.cases import OpCases

DTYPES = {"cpu": ("float32",), "cuda": ("float32", "bfloat16")}


@dataclass(frozen=True)
class Options:
    """Time every op beside its rivals, and append the rows to results/<device>/<op>.csv.

    Attributes:
        op: the ops; default all.
        case: the workloads; default all that are worth timing on the device.
        device: where to run.
        dtype: default float32 on a CPU, float32 and bfloat16 on a GPU.
        columns: names, or beginnings of names such as `ours`, of the columns; default all.
        quick: a first look: few repeats, float32, nothing recorded unless `out` is given.
        seconds: to time one direction of one workload.
        threads: of the CPU; default torch's.
        compilers: processes that compile the rivals beforehand, where one alone would take long;
            times to compile are then not recorded.
        contract: a JUnit report of the contract's tests, run just before; default to run them.
        out: the folder of the results.
    """

    op: tuple[str, ...] = ()
    case: tuple[str, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: tuple[Literal["float32", "bfloat16", "float16", "float64"], ...] = ()
    columns: tuple[str, ...] = ()
    quick: bool = False
    seconds: float | None = None
    threads: int | None = None
    compilers: int = 0
    contract: Path | None = None
    out: Path | None = None

    @property
    def budget(self) -> Budget:
        """How long to time each direction of each workload."""
        budget = QUICK if self.quick else Budget()
        return budget if self.seconds is None else replace(budget, seconds=self.seconds)

    def chosen(self) -> dict[str, OpCases]:
        """Return the cases of the chosen ops.

        Raises:
            ValueError: there is no such op, or none of them has such a case.
        """
        found = find_ops()
        unknown = set(self.op) - set(found)
        if unknown:
            raise ValueError(f"op must be among {', '.join(found)}; got {', '.join(unknown)}")

        found = {name: cases for name, cases in found.items() if not self.op or name in self.op}
        names = [each.name for cases in found.values() for each in cases.workloads]
        unknown = set(self.case) - set(names)
        if unknown:
            raise ValueError(f"case must be among {', '.join(names)}; got {', '.join(unknown)}")

        return found

    def workloads(self, op: str, cases: OpCases) -> Iterator[Workload]:
        """Yield the chosen workloads of an op."""
        dtypes = self.dtype or (("float32",) if self.quick else DTYPES[self.device])

        for case in cases.workloads:
            named = case.name in self.case if self.case else self.device in case.devices
            for dtype in dtypes if named else ():
                device = torch.device(self.device)
                yield Workload(op, cases, case, device, getattr(torch, dtype))


def main(options: Options, console: Console) -> int:
    """Measure and record; return how many ops are red."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)
    console.print(f"{run.device}, {run.threads} threads, torch {run.torch}, commit {run.commit}")
    found = {op: list(options.workloads(op, cases)) for op, cases in options.chosen().items()}

    with _compiled_ahead(list(chain(*found.values())), options, console):
        return _measure_all(found, options, run, console)


@contextmanager
def _compiled_ahead(
    workloads: list[Workload], options: Options, console: Console
) -> Iterator[None]:
    """Have the rivals in a cache of this run's own, if that is asked for."""
    if options.compilers == 0:
        yield
        return

    with TemporaryDirectory() as folder:
        # Inductor reads it when it first compiles, here and in every process started from here.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        torch.compiler.config.force_disable_caches = False
        fill_cache(workloads, options.columns, options.compilers, console.print)
        yield


def _measure_all(
    found: dict[str, list[Workload]], options: Options, run: record.Run, console: Console
) -> int:
    red = 0
    for op, workloads in found.items():
        try:
            _measure_op(op, workloads, options, run, console)
        except RedContract as error:
            console.print(f"[bold red]{op} is red and is not timed.[/]")
            console.print(str(error), markup=False, style="red")
            red += 1

    return red


def _measure_op(
    op: str, workloads: list[Workload], options: Options, run: record.Run, console: Console
) -> None:
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    measurements, skipped, gave_up = [], {}, set()

    def say(stage: str) -> None:
        progress.update(task, description=f"{op}: {stage}")
        if not console.is_terminal:
            console.print(f"{op}: {stage}")

    with Progress(*shown, console=console, transient=True) as progress:
        task = progress.add_task(op, total=len(workloads))
        say("its contract")
        if options.contract is None:
            check_contract(op)
        else:
            check_report(op, options.contract)

        for workload in workloads:
            outcome = measure(workload, options.budget, options.columns, gave_up, say)
            measurements += outcome.measurements
            skipped |= outcome.skipped
            gave_up |= outcome.gave_up
            progress.advance(task)

    report.print_table(console, op, measurements)
    report.print_skipped(console, skipped)
    write(options, run, op, measurements, console)


def write(
    options: Options,
    run: record.Run,
    op: str,
    measurements: list[record.Measurement],
    console: Console,
) -> None:
    """Append the rows, unless this was only a first look."""
    if options.quick and options.out is None:
        console.print("A first look: nothing is recorded.")
        return

    folder = record.results_folder(options.out or record.RESULTS, torch.device(options.device))
    record.append(folder / f"{op}.csv", run, measurements)
    console.print(f"{len(measurements)} rows appended to {folder / f'{op}.csv'}")


def prepare_process(threads: int | None = None) -> None:
    """Give both sides of every comparison the same threads, and `auto` its own choice.

    Raises:
        ValueError: the environment overrides what `impl="auto"` means.
    """
    forced = os.environ.get("DGM_FAST_IMPL", "auto")
    if forced != "auto":
        raise ValueError(f"DGM_FAST_IMPL must be unset for a benchmark; got {forced!r}")

    if threads is not None:
        torch.set_num_threads(threads)
    # A cache of another day holds another machine's autotuning, and hides the time to compile.
    torch.compiler.config.force_disable_caches = True
    warnings.filterwarnings("ignore", message=".*force_disable_caches")
    # Convolutions and products alike: torch's default rounds the first alone to TF32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    # Compiled C++ asks OpenMP, not torch.
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
