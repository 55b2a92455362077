"""What one sample costs, drawn the naive way, by a cached loop, and by ours.

`python -m benchmarks.sampling [--case wavenet] [--columns ours]`. A row is the time of one step,
which draws the next sample of every signal of a batch, or the next pixel of every image. Nothing is
timed unless all columns draw the same from the same noise. `eager` runs the network over the window
of its receptive field, or the whole image; `best_eager` keeps what each layer will look back on,
and `compile_*` compiles its step. `anchor:density` is what an evaluation of the density takes a
sample or a pixel, all of which it has at once.
Of MADE and MAF, `benchmarks.sampling_made`, a row is the time of all features of a batch.
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
from benchmarks.sampling_made import BATCHES as BATCHES_AT_ONCE
from benchmarks.sampling_made import MODELS, batch_case
from benchmarks.timing import Spread, Timed, interleave
from benchmarks.verify import RedContract
from dgm_fast.families import (
    GatedPixelCNN,
    GatedPixelCNNConfig,
    PixelCNN,
    PixelCNNConfig,
    PixelCNNpp,
    PixelCNNppConfig,
    WaveNet,
    WaveNetConfig,
)
from dgm_fast.families.autoregressive.pixel_model import PixelModel
from dgm_fast.sampling import PixelSampler, WaveNetSampler

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
# A pixel is one draw of each.
PIXELCNNS: dict[str, tuple[type[PixelModel], object]] = {
    "pixelcnn-28x28": (PixelCNN, PixelCNNConfig((28, 28))),
    "gated-pixelcnn-28x28": (GatedPixelCNN, GatedPixelCNNConfig((28, 28))),
    "pixelcnnpp-3x32x32": (PixelCNNpp, PixelCNNppConfig((3, 32, 32), channels=64, blocks=2)),
}
PIXEL_BATCHES = (1, 16, 64, 256)


@dataclass(frozen=True)
class Draws:
    """One way to draw.

    Attributes:
        draw: given the noise (B, n, N) of the next n steps, returns what they draw, (B, n) or
            (B, n, V); called again, it goes on.
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
        at_once: whether a call draws all there is.
    """

    name: str
    columns: Mapping[str, Draws]
    noise: Callable[[int], Tensor]
    density: Callable[[], object]
    places: int
    at_once: bool = False


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

    def ours() -> Draws:
        stream = Stream(WaveNetSampler(network, output), levels)
        return Draws(stream.draw, stream.start, 512)

    def naive() -> Draws:
        windows = Windows(model, levels)
        return Draws(windows.draw, windows.start, 1)

    made: dict[str, Callable[[], Draws]] = {} if batch > MOST_IN_WINDOWS else {"eager": naive}
    made |= {"best_eager": cached}
    made |= {each: partial(cached, mode, compiled=True) for each, mode in COMPILE_MODES.items()}
    made |= {f"{OURS}auto": ours}
    columns = {column: make() for column, make in made.items() if is_wanted(column, wanted)}

    places = max(256, 16000 // batch)
    x = torch.rand(batch, places, device=device) * 2 - 1
    density = partial(torch.no_grad()(WaveNet(config, device=device).log_prob), x)
    noise = partial(model.draw_noise, batch, generator=generator)
    return Case(name, columns, noise, density, places)


def at_once_case(
    model: tuple, batch: int, device: torch.device, wanted: tuple[str, ...], name: str
) -> Case:
    """Return what is timed of a model whose step is a whole batch."""
    draws, noise, density = batch_case(*model, batch, device, wanted)
    columns = {column: Draws(draw, lambda: None, 1) for column, draw in draws.items()}
    return Case(name, columns, lambda steps: noise(), density, 1, at_once=True)


class Passes:
    """The naive way: a pass of the network over the whole image for each pixel."""

    def __init__(self, model: PixelModel, images: Tensor) -> None:
        self.model, self.given = model, images
        self.start()

    def start(self) -> None:
        # From the middle on, as the others.
        self.images, self.done = self.given.clone(), self.given[0, 0].numel() // 2

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        output, drawn = self.model.output, []
        for t in range(noise.shape[1]):
            parameters = output.to_features(self.model._run(self.images, None))
            drawn.append(output.pick(parameters[:, self.done], noise[:, t]))
            self.images.flatten(2)[:, :, self.done] = drawn[-1]
            # After the last pixel it is work, and no sample.
            self.done = min(self.done + 1, self.images[0, 0].numel() - 1)
        return torch.stack(drawn, dim=1)


class Rows:
    """A sampler of images, and where it is."""

    def __init__(self, sampler: PixelSampler, images: Tensor) -> None:
        self.sampler, (H, _) = sampler, sampler.size
        self.middle = H // 2
        given = torch.ones_like(images[:, 0], dtype=torch.bool)
        given[:, self.middle :] = False
        state = sampler.start(len(images), images=images, given=given)
        self.begin = sampler.draw(state, self.middle)
        self.start()

    def start(self) -> None:
        self.state = replace(self.begin.clone(), noise=self.begin.noise.clone())

    def draw(self, noise: Tensor) -> Tensor:
        H, W = self.sampler.size
        rows = -(-noise.shape[1] // W)
        if int(self.state.done) + rows > H:
            # After the last row it is work, and no sample.
            self.state.done.fill_(self.middle)
        first = int(self.state.done) * W
        pixels = slice(first, first + noise.shape[1])
        self.state.noise[:, pixels] = noise
        self.sampler.draw(self.state, rows)
        return self.state.images.flatten(2)[:, :, pixels].transpose(1, 2)


def pixelcnn_case(
    model_class: type[PixelModel],
    config: object,
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of a PixelCNN at a batch size, from the middle of the images on."""
    torch.manual_seed(SEED)
    plain = model_class(config, impl="reference", device=device).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            # Away from its near-uniform start.
            parameter.mul_(1.5)
    model = model_class(config, device=device).eval()
    model.load_state_dict(plain.state_dict())
    network, W = model._describe(), config.event_shape[-1]
    generator = torch.Generator(device).manual_seed(SEED)
    shape = batch, *config.image_shape
    images = torch.randint(model.levels, shape, generator=generator, device=device).float()

    def sampled(impl: str, rows: int) -> Draws:
        each = Rows(PixelSampler(network, impl=impl), images)
        return Draws(each.draw, each.start, rows * W)

    def naive() -> Draws:
        passes = Passes(plain, images)
        return Draws(passes.draw, passes.start, 1)

    made: dict[str, Callable[[], Draws]] = {} if batch > MOST_IN_WINDOWS else {"eager": naive}
    made |= {
        "best_eager": partial(sampled, "reference", 1),
        f"{OURS}auto": partial(sampled, "auto", 4),
    }
    columns = {column: make() for column, make in made.items() if is_wanted(column, wanted)}

    def noise(steps: int) -> Tensor:
        return model.draw_noise(batch, generator)[:, :steps].contiguous()

    density = partial(torch.no_grad()(model.log_prob), images.reshape(batch, *config.event_shape))
    return Case(name, columns, noise, density, images[0, 0].numel())


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(wavenet_case, config, batch)
    for name, config in WAVENETS.items()
    for batch in BATCHES
} | {
    f"{name}-batch{batch}": partial(pixelcnn_case, *model, batch)
    for name, model in PIXELCNNS.items()
    for batch in PIXEL_BATCHES
}
CASES |= {
    f"{name}-batch{batch}": partial(at_once_case, model, batch)
    for name, model in MODELS.items()
    for batch in BATCHES_AT_ONCE
}


def all_cases() -> dict[str, Callable[..., Case]]:
    """Return the cases of this file and of those that build on it."""
    from benchmarks import sampling_sequences

    return CASES | sampling_sequences.CASES


def check_draws(case: Case) -> None:
    """Refuse to time columns that do not draw the same.

    Raises:
        RedContract: two columns differ.
    """
    if case.at_once:
        check_batches(case)
        return
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


def check_batches(case: Case) -> None:
    """Refuse the same where a call draws all there is.

    Of many binary features some lie within rounding of the border, and then those after them go
    other ways: one sample in fifty may.
    """
    noise = case.noise(1)
    found = {column: draws.draw(noise) for column, draws in case.columns.items()}
    first = next(iter(found.values()))
    for column, x in found.items():
        is_off = ((x - first).abs() > 1e-3 * (1 + first.abs())).any(1)
        if float(is_off.double().mean()) > 0.02:
            raise RedContract(f"{case.name}: {column} draws otherwise")


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
    for name, make in all_cases().items():
        if not options.case or name.startswith(options.case):
            measurements += measure(make(device, options.columns, name), options)
            console.print(f"{name}: measured")

    report.print_table(console, NAME, measurements)
    write(options, run, NAME, measurements, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
