"""What one pixel of an image transformer costs, from the middle of the images on.

The columns are those of `sequences.py`: `best_eager` concatenates keys and values, `compile_*`
compiles a step over a cache of fixed size. A pixel is drawn by the model's `pick`, in Python.
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
from benchmarks.sampling.pixels import Passes
from benchmarks.sampling.sequences import compiled_sampler, spread
from benchmarks.sampling.token_loops import Cache, pass_through
from dgm_fast.families import ImageTransformer, ImageTransformerConfig
from dgm_fast.sampling import TransformerSampler

__all__ = ["CASES", "image_case"]

MODELS = {"image-transformer-28x28": ImageTransformerConfig((28, 28))}


class GrowingImage:
    """The modules, and a cache that is concatenated with each pixel's key and value."""

    def __init__(self, model: ImageTransformer, tokens: Tensor) -> None:
        self.model, self.middle = model, tokens.shape[1] // 2
        self.given = tokens[:, : self.middle]
        self.places = model._positions.detach()
        self.begin: Cache = [None] * len(model.stack.blocks)
        with torch.no_grad():
            first = torch.full_like(tokens[:, :1], model.levels)
            self.look(torch.cat([first, self.given[:, :-1]], dim=1), self.begin, 0)
        self.start()

    def start(self) -> None:
        self.tokens, self.cache = self.given, list(self.begin)

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        if self.tokens.shape[1] + noise.shape[1] > len(self.places):
            # After the last pixel it is work, and no sample.
            self.start()
        for u in noise.unbind(1):
            new = self.look(self.tokens[:, -1:], self.cache, self.tokens.shape[1])
            pixel = self.model.output.pick(new, u).long()
            self.tokens = torch.cat([self.tokens, pixel], dim=1)
        return self.tokens[:, -noise.shape[1] :]

    def look(self, new: Tensor, cache: Cache, place: int) -> Tensor:
        """Return the parameters (B, P) after new inputs (B, m), the first of them at `place`."""
        model = self.model
        x = model.embedding(new) + self.places[place : place + new.shape[1]]
        return model.head(pass_through(model.stack, x, cache, None)[:, -1])


class Pixels:
    """A sampler of pixels as tokens, and where it is."""

    def __init__(self, sampler: TransformerSampler, tokens: Tensor) -> None:
        self.sampler, middle = sampler, tokens.shape[1] // 2
        state = sampler.feed(sampler.start(len(tokens)), tokens[:, : middle - 1])
        # Looks at all that is given but the last, in whose place it then stands.
        _, self.begin = sampler.draw(state, 1)
        self.begin.buffer[:, :middle] = tokens[:, :middle]
        self.start()

    def start(self) -> None:
        # The cache of the first half stays: what comes after it is written again.
        self.state = replace(self.begin, buffer=self.begin.buffer.clone())

    def draw(self, noise: Tensor) -> Tensor:
        if self.state.time + noise.shape[1] > self.sampler.length:
            # After the last pixel it is work, and no sample.
            self.start()
        tokens, self.state = self.sampler.draw(self.state, noise=noise)
        return tokens


def image_case(
    config: ImageTransformerConfig,
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of an image transformer, of one channel, at a batch size."""
    torch.manual_seed(SEED)
    torch._dynamo.reset()
    model = ImageTransformer(config, device=device).eval()
    spread(model)
    generator = torch.Generator(device).manual_seed(SEED)
    shape = batch, *config.image_shape
    images = torch.randint(model.levels, shape, generator=generator, device=device)
    tokens = images.flatten(1)
    # So that a call takes seconds at most: keys and values of a large batch take long to copy.
    steps = min(64, max(8, 1024 // batch), tokens.shape[1] // 2)

    def naive() -> Draws:
        passes = Passes(model, images.float())
        return Draws(lambda noise: passes.draw(noise)[..., 0].long(), passes.start, 1)

    def cached() -> Draws:
        growing = GrowingImage(model, tokens)
        return Draws(growing.draw, growing.start, steps)

    def swept(sampler: TransformerSampler) -> Draws:
        each = Pixels(sampler, tokens)
        return Draws(each.draw, each.start, steps)

    made: dict[str, Callable[[], Draws]] = {} if batch > MOST_IN_WINDOWS else {"eager": naive}
    made |= {
        "best_eager": cached,
        **{
            column: lambda mode=mode: swept(compiled_sampler(model, mode))
            for column, mode in COMPILE_MODES.items()
        },
        **{
            column: lambda impl=impl: swept(model.sampler(impl=impl))
            for column, impl in ours_on(device).items()
        },
    }
    columns = make_columns(made, wanted, name)

    def noise(count: int) -> Tensor:
        return model.draw_noise(batch, generator)[:, :count].contiguous()

    density = partial(torch.no_grad()(model.log_prob), images.reshape(batch, *config.event_shape))
    return Case(name, columns, noise, density, tokens.shape[1])


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(image_case, config, batch)
    for name, config in MODELS.items()
    for batch in BATCHES
}
