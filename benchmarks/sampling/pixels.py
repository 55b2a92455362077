"""What one pixel of a PixelCNN costs, from the middle of the images on.

`best_eager` is the cached loop of calls, and `compile_*` the same loop a row at a time, written for
`torch.compile` in `compiled_pixels.py`. They are missing of PixelCNN++, whose rows are of three
kinds: one of them alone took 140 s to compile. All three took 108 s where Python calls compiled
pixels, at 219 us a pixel of an image where `best_eager` took 812.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.columns import COMPILE_MODES
from benchmarks.sampling.case import (
    BATCHES,
    MOST_IN_WINDOWS,
    SEED,
    Case,
    Draws,
    make_columns,
    ours_on,
)
from benchmarks.sampling.compiled import compiler_of
from benchmarks.sampling.compiled_pixels import CompiledLoop
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families import (
    GatedPixelCNN,
    GatedPixelCNNConfig,
    PixelCNN,
    PixelCNNConfig,
    PixelCNNpp,
    PixelCNNppConfig,
)
from dgm_fast.families.autoregressive.convolutional_pixel_model import ConvolutionalPixelModel
from dgm_fast.sampling import PixelSampler
from dgm_fast.sampling.pixelcnn.eager import EagerLoop

# A pixel is one draw of each.
MODELS: dict[str, tuple[type[ConvolutionalPixelModel], object]] = {
    "pixelcnn-28x28": (PixelCNN, PixelCNNConfig((28, 28))),
    "gated-pixelcnn-28x28": (GatedPixelCNN, GatedPixelCNNConfig((28, 28))),
    "pixelcnnpp-3x32x32": (PixelCNNpp, PixelCNNppConfig((3, 32, 32), channels=64, blocks=2)),
}


class Passes:
    """The naive way: a pass of the network over the whole image for each pixel."""

    def __init__(self, model: ConvolutionalPixelModel, images: Tensor) -> None:
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
        noise = sampler.draw_noise(len(images))
        state = sampler.start(len(images), images=images, given=given, noise=noise)
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
    model_class: type[ConvolutionalPixelModel],
    config: object,
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of a PixelCNN at a batch size, from the middle of the images on."""
    torch.manual_seed(SEED)
    torch._dynamo.reset()
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

    def cached() -> Draws:
        sampler = PixelSampler(network, impl="reference")
        loop = sampler._loop
        # On a GPU too, a loop of calls.
        sampler._loop = EagerLoop(loop.plan, loop.output, sampler.size)
        each = Rows(sampler, images)
        return Draws(each.draw, each.start, W)

    def compiled(mode: str | None) -> Draws:
        if any(value.stride > 1 for value in network.values):
            raise ImplementationUnavailable("rows of several strides take minutes to compile")
        sampler = PixelSampler(network, impl="reference")
        loop, compiler = sampler._loop, compiler_of(mode, device)
        sampler._loop = CompiledLoop(loop.plan, loop.output, sampler.size, compiler)
        each = Rows(sampler, images)
        return Draws(each.draw, each.start, W)

    def ours(impl: str) -> Draws:
        each = Rows(PixelSampler(network, impl=impl), images)
        return Draws(each.draw, each.start, 4 * W)

    def naive() -> Draws:
        passes = Passes(plain, images)
        return Draws(passes.draw, passes.start, 1)

    made: dict[str, Callable[[], Draws]] = {} if batch > MOST_IN_WINDOWS else {"eager": naive}
    made |= {
        "best_eager": cached,
        **{each: partial(compiled, mode) for each, mode in COMPILE_MODES.items()},
        **{column: partial(ours, impl) for column, impl in ours_on(device).items()},
    }
    columns = make_columns(made, wanted, name)

    def noise(steps: int) -> Tensor:
        return model.draw_noise(batch, generator)[:, :steps].contiguous()

    density = partial(torch.no_grad()(model.log_prob), images.reshape(batch, *config.event_shape))
    return Case(name, columns, noise, density, images[0, 0].numel())


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(pixelcnn_case, *model, batch)
    for name, model in MODELS.items()
    for batch in BATCHES
}
