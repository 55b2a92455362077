"""What one sample of a WaveNet costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.columns import ANCHOR, COMPILE_MODES
from benchmarks.sampling.case import (
    BATCHES,
    MOST_IN_WINDOWS,
    SEED,
    Case,
    Draws,
    Stream,
    make_columns,
    ours_on,
)
from dgm_fast.families import WaveNet, WaveNetConfig
from dgm_fast.sampling import WaveNetSampler
from dgm_fast.sampling.wavenet.eager import EagerLoop

# With the paper's dilations up to 512, twice.
MODELS = {
    "wavenet-20x64-skip256": WaveNetConfig(stacks=2, layers=10),
    "wavenet-20x64-skip128": WaveNetConfig(stacks=2, layers=10, skip_channels=128),
}


class Windows:
    """The naive way: the network over all of the receptive field for each sample.

    Arguments:
        model: the network.
        levels: that come before.
        last: make the last output alone, which spares most of what follows the layers.
    """

    def __init__(self, model: WaveNet, levels: Tensor, last: bool = False) -> None:
        self.model, self.given, self.last = model, levels, last
        self.start()

    def start(self) -> None:
        self.levels = self.given

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        model = self.model
        for t in range(noise.shape[1]):
            # The place to draw is the last; the network does not look at what it holds.
            window = self.levels[:, -model.receptive_field :]
            inputs = torch.cat([window, window[:, :1]], dim=1)
            parameters = self._last_output(inputs) if self.last else model._run(inputs, None, None)
            parameters = parameters[..., -1]
            level = model.output.pick(parameters, noise[:, t])
            self.levels = torch.cat([self.levels[:, 1:], level[:, None]], dim=1)
        return self.levels[:, -noise.shape[1] :]

    def _last_output(self, levels: Tensor) -> Tensor:
        model = self.model
        h, gates = model.first(levels), []
        for layer in model.layers:
            h, z = layer(h, None, None)
            gates.append(z[..., -1:])
        return model._head(gates)


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

    def cached() -> Draws:
        sampler = WaveNetSampler(network, output, impl="reference")
        stream = Stream(sampler, levels)
        # On a GPU too, a loop of calls.
        sampler._loop = EagerLoop(sampler.network, output)
        return Draws(stream.draw, stream.start, 64)

    def compiled(mode: str | None) -> Draws:
        sampler = WaveNetSampler(network, output, impl="reference")
        loop = sampler._loop
        loop.step = torch.compile(loop.step, dynamic=False, mode=mode)
        stream = Stream(sampler, levels)
        return Draws(stream.draw, stream.start, 64)

    def ours(impl: str) -> Draws:
        stream = Stream(WaveNetSampler(network, output, impl=impl), levels)
        return Draws(stream.draw, stream.start, 512)

    def naive(last: bool = False) -> Draws:
        windows = Windows(model, levels, last)
        return Draws(windows.draw, windows.start, 1)

    made: dict[str, Callable[[], Draws]] = {}
    if batch <= MOST_IN_WINDOWS:
        made = {"eager": naive, f"{ANCHOR}last_output": partial(naive, last=True)}
    made |= {"best_eager": cached}
    made |= {each: partial(compiled, mode) for each, mode in COMPILE_MODES.items()}
    made |= {column: partial(ours, impl) for column, impl in ours_on(device).items()}
    columns = make_columns(made, wanted, name)

    places = max(256, 16000 // batch)
    x = torch.rand(batch, places, device=device) * 2 - 1
    density = partial(torch.no_grad()(WaveNet(config, device=device).log_prob), x)
    noise = partial(model.draw_noise, batch, generator=generator)
    return Case(name, columns, noise, density, places)


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(wavenet_case, config, batch)
    for name, config in MODELS.items()
    for batch in BATCHES
}
