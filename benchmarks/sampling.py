"""What one sample costs, drawn the naive way, by a cached loop, and by ours.

`python -m benchmarks.sampling [--case wavenet] [--columns ours]`. A row is the time of one step,
which draws the next sample of every signal of a batch. Nothing is timed unless all columns draw
the same from the same noise. `eager` runs the network over the window of its receptive field;
`best_eager` keeps what each layer will look back on, and `compile_*` compiles its step; on a GPU
both replay it as a CUDA graph.
`anchor:density` is what an evaluation of the density takes a sample, all of which it has at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks import record, report
from benchmarks.columns import ANCHOR, COMPILE_MODES, OURS
from benchmarks.measure import is_wanted
from benchmarks.run import Options, prepare_process, write
from benchmarks.timing import Spread, Timed, interleave
from benchmarks.verify import RedContract
from dgm_fast.families import WaveNet, WaveNetConfig
from dgm_fast.sampling import WaveNetSampler

NAME = "sampling"
SEED = 0
COMPARED_STEPS = 24
DENSITY = f"{ANCHOR}density"

# With the paper's dilations up to 512, twice; `CASES` are what is timed.
WAVENETS = {
    "wavenet-20x64-skip256": WaveNetConfig(stacks=2, layers=10),
    "wavenet-20x64-skip128": WaveNetConfig(stacks=2, layers=10, skip_channels=128),
}
BATCHES = (1, 4, 16, 64)
# A window of many signals takes seconds a step, and tells no more than one of few.
MOST_IN_WINDOWS = 16


@dataclass(frozen=True)
class Draws:
    """One way to draw.

    Attributes:
        draw: given the noise (B, n, N) of the next n steps, returns what they draw (B, n); called
            again, it goes on.
        start: goes back to the beginning.
        steps: of a call that is timed.
    """

    draw: Callable[[Tensor], Tensor]
    start: Callable[[], None]
    steps: int


@dataclass(frozen=True)
class Case:
    """A model and a batch.

    Attributes:
        name: of the row.
        columns: `column -> draws`, `eager` first.
        noise: draws that of n steps.
        density: evaluates the density of a stretch of samples.
        places: how long that stretch is.
    """

    name: str
    columns: Mapping[str, Draws]
    noise: Callable[[int], Tensor]
    density: Callable[[], object]
    places: int


class Windows:
    """The naive way: all of the receptive field for each sample."""

    def __init__(self, model: WaveNet, levels: Tensor) -> None:
        self.model, self.given = model, levels
        self.start()

    def start(self) -> None:
        self.levels = self.given

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        model = self.model
        for t in range(noise.shape[1]):
            # The place to draw is the last; the network does not look at what it holds.
            window = self.levels[:, -model.receptive_field :]
            h, gates = model.first(torch.cat([window, window[:, :1]], dim=1)), []
            for layer in model.layers:
                h, z = layer(h, None, None)
                gates.append(z[..., -1:])
            skips = model.skip(torch.cat(gates, dim=1)).relu()
            parameters = model.last(model.head(skips).relu()).squeeze(2)
            level = model.output.pick(parameters, noise[:, t])
            self.levels = torch.cat([self.levels[:, 1:], level[:, None]], dim=1)
        return self.levels[:, -noise.shape[1] :]


class Stream:
    """A sampler and where it is."""

    def __init__(self, sampler: WaveNetSampler, levels: Tensor) -> None:
        self.sampler = sampler
        self.begin = sampler.feed(sampler.start(len(levels)), levels)
        self.start()

    def start(self) -> None:
        self.state = self.begin.clone()

    def draw(self, noise: Tensor) -> Tensor:
        levels, self.state = self.sampler.draw(self.state, noise=noise)
        return levels


def wavenet_case(
    config: WaveNetConfig, batch: int, device: torch.device, wanted: tuple[str, ...], name: str
) -> Case:
    """Return what is timed of a WaveNet at a batch size."""
    torch.manual_seed(SEED)
    torch._dynamo.reset()
    model = WaveNet(config, impl="reference", device=device)
    with torch.no_grad():
        # Away from its uniform start.
        model.last.weight.mul_(40)
    network, output = model.sampler().network, model.output
    generator = torch.Generator(device).manual_seed(SEED)
    shape = batch, config.receptive_field
    levels = torch.randint(config.levels, shape, generator=generator, device=device)

    def cached(mode: str | None = None, *, compiled: bool = False) -> Draws:
        sampler = WaveNetSampler(network, output, impl="reference")
        stream = Stream(sampler, levels)
        if compiled:
            loop = sampler._loop
            loop.step = torch.compile(loop.step, dynamic=False, mode=mode)
        return Draws(stream.draw, stream.start, 64)

    # On a GPU by name, so that a row is of the kernel or there is none.
    impl = "cuda" if device.type == "cuda" else "auto"

    def ours() -> Draws:
        stream = Stream(WaveNetSampler(network, output, impl=impl), levels)
        return Draws(stream.draw, stream.start, 512)

    def naive() -> Draws:
        windows = Windows(model, levels)
        return Draws(windows.draw, windows.start, 1)

    made: dict[str, Callable[[], Draws]] = {} if batch > MOST_IN_WINDOWS else {"eager": naive}
    made |= {"best_eager": cached}
    made |= {each: partial(cached, mode, compiled=True) for each, mode in COMPILE_MODES.items()}
    made |= {f"{OURS}{impl}": ours}
    columns = {column: make() for column, make in made.items() if is_wanted(column, wanted)}

    places = max(256, 16000 // batch)
    x = torch.rand(batch, places, device=device) * 2 - 1
    density = partial(torch.no_grad()(WaveNet(config, device=device).log_prob), x)
    noise = partial(model.draw_noise, batch, generator=generator)
    return Case(name, columns, noise, density, places)


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(wavenet_case, config, batch)
    for name, config in WAVENETS.items()
    for batch in BATCHES
}


def check_draws(case: Case) -> None:
    """Refuse to time columns that do not draw the same.

    Raises:
        RedContract: two columns differ.
    """
    noise, found = case.noise(COMPARED_STEPS), {}
    for column, draws in case.columns.items():
        draws.start()
        # The naive way takes long, so it only begins.
        steps = min(COMPARED_STEPS, 4 * draws.steps)
        found[column] = draws.draw(noise[:, :steps])
        draws.start()

    first = min(found.values(), key=lambda levels: levels.shape[1])
    for column, levels in found.items():
        if not torch.equal(levels[:, : first.shape[1]], first):
            raise RedContract(f"{case.name}: {column} draws otherwise")
    longest = [levels for levels in found.values() if levels.shape[1] == COMPARED_STEPS]
    if any(not torch.equal(levels, longest[0]) for levels in longest):
        raise RedContract(f"{case.name}: cached loops draw otherwise")


def measure(case: Case, options: Options) -> list[record.Measurement]:
    """Return the rows of a case: microseconds a step."""
    check_draws(case)
    calls = {
        column: [Timed(partial(draws.draw, case.noise(draws.steps)))]
        for column, draws in case.columns.items()
    }
    steps = {column: draws.steps for column, draws in case.columns.items()}
    if is_wanted(DENSITY, options.columns):
        calls[DENSITY], steps[DENSITY] = [Timed(case.density)], case.places
    spreads = interleave(calls, torch.device(options.device), options.budget, with_launches=True)
    by_step = {name: _a_step(spread, steps[name]) for name, spread in spreads.items()}
    place = NAME, case.name, "float32", "sample"
    eager = by_step.get("eager")
    return [record.measurement(place, name, spread, eager) for name, spread in by_step.items()]


def _a_step(spread: Spread, steps: int) -> Spread:
    each = (us / steps for us in (spread.median_us, spread.p20_us, spread.p80_us))
    return replace(spread, **dict(zip(("median_us", "p20_us", "p80_us"), each, strict=True)))


def main(options: Options, console: Console) -> int:
    """Measure, print and record; `case` are beginnings of names."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)

    measurements = []
    for name, make in CASES.items():
        if not options.case or name.startswith(options.case):
            measurements += measure(make(device, options.columns, name), options)
            console.print(f"{name}: measured")

    report.print_table(console, NAME, measurements)
    write(options, run, NAME, measurements, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
