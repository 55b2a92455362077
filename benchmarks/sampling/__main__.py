"""What one sample costs, drawn the naive way, by a cached loop, and by ours.

`python -m benchmarks.sampling [--case wavenet] [--columns ours]`. A row is the time of one step,
which draws the next sample of every signal of a batch, or the next pixel of every image. Nothing is
timed unless all columns draw the same from the same noise. `eager` runs the network over the window
of its receptive field, or the whole image; `best_eager` keeps what each layer will look back on,
and `compile_*` compiles its step, which on a GPU a CUDA graph replays. Of PixelCNNs, but for
PixelCNN++, that is a row with the loop over its pixels, and of MADE and MAF a block of features
with the loop that solves it. On a GPU `ours:cuda` is the kernel, `ours:reference` the cached loop
as a CUDA graph, and `ours:auto` one of them. `anchor:density` is what an evaluation of the density
takes a sample or a pixel, all of which it has at once, and `anchor:last_output` the naive way of
WaveNet with what follows the layers at the last place alone. Of MADE, of flows and of histograms a
row is the time of all features of a batch, and `ours:jacobi` iterates the whole network of a flow's
step. Of the inverse with its gradient and of whole flows, `anchor:density` is a density with its
gradient, or a density, and `anchor:sample` samples of IAF, of which the density is what is solved
for. What tables call all of these is in `words.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import tyro
from rich.console import Console

from benchmarks import record, report
from benchmarks.measure import is_wanted
from benchmarks.run import Options, prepare_process, write
from benchmarks.sampling import (
    flows,
    image_transformer,
    independent,
    masked,
    pixels,
    sequences,
    wavenet,
)
from benchmarks.sampling.case import Case, check_draws
from benchmarks.timing import Spread, Timed, interleave
from benchmarks.verify import RedContract

NAME = "sampling"
CASES: dict[str, Callable[..., Case]] = {
    **wavenet.CASES,
    **pixels.CASES,
    **image_transformer.CASES,
    **masked.CASES,
    **flows.CASES,
    **sequences.CASES,
    **independent.CASES,
}


def measure(case: Case, options: Options) -> list[record.Measurement]:
    """Return the rows of a case: microseconds a step."""
    check_draws(case)
    calls = {
        column: [Timed(partial(draws.draw, case.noise(draws.steps)))]
        for column, draws in case.columns.items()
    }
    steps = {column: draws.steps for column, draws in case.columns.items()}
    if is_wanted(case.anchor, options.columns):
        calls[case.anchor], steps[case.anchor] = [Timed(case.density)], case.places
    spreads = interleave(calls, torch.device(options.device), options.budget, with_launches=True)
    by_step = {name: _a_step(spread, steps[name]) for name, spread in spreads.items()}
    place = NAME, case.name, "float32", case.direction
    eager = by_step.get("eager")
    return [record.measurement(place, name, spread, eager) for name, spread in by_step.items()]


def _a_step(spread: Spread, steps: int) -> Spread:
    each = (us / steps for us in (spread.median_us, spread.p20_us, spread.p80_us))
    return replace(spread, **dict(zip(("median_us", "p20_us", "p80_us"), each, strict=True)))


def main(options: Options, console: Console) -> int:
    """Measure, print and record; `case` are beginnings of names. Returns how many were red."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)

    measurements, red = [], 0
    for name, make in CASES.items():
        if options.case and not name.startswith(options.case):
            continue
        try:
            rows = measure(make(device, options.columns, name), options)
        except RedContract as error:
            console.print(f"[bold red]{name} is red and is not timed:[/] {error}")
            red += 1
            continue
        # At once, because a run of all of them takes long.
        write(options, run, NAME, rows, console)
        measurements += rows

    report.print_table(console, NAME, measurements)
    return red


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
