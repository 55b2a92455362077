"""What is timed of a model and a batch, and that all ways to draw give the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.columns import ANCHOR, OURS, tensors
from benchmarks.measure import is_wanted
from benchmarks.verify import RedContract
from dgm_fast._core.implementation import ImplementationUnavailable

SEED = 0
COMPARED_STEPS = 24
DENSITY = f"{ANCHOR}density"
# Of every model.
BATCHES = (1, 4, 16, 64, 256)
# A window of many signals takes seconds a step, and tells no more than one of few.
MOST_IN_WINDOWS = 16


@dataclass(frozen=True)
class Draws:
    """One way to draw.

    Attributes:
        draw: given the noise (B, n, N) of the next n steps, returns what they draw, (B, n) or
            (B, n, V), and after it what gradients it may take; called again, it goes on.
        start: goes back to the beginning.
        steps: of a call that is timed.
    """

    draw: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
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
        direction: of the row.
        anchor: the column of `density`.
    """

    name: str
    columns: Mapping[str, Draws]
    noise: Callable[[int], Tensor]
    density: Callable[[], object]
    places: int
    at_once: bool = False
    direction: str = "sample"
    anchor: str = DENSITY


def ours_on(device: torch.device) -> dict[str, str]:
    """Return the columns of ours, and the `impl` of each.

    On a GPU the kernel and the CUDA graph that is the other way there are asked for by name beside
    what `auto` takes of them.

    Arguments:
        device: of the case.
    """
    impls = ["auto", *(["cuda", "reference"] if device.type == "cuda" else [])]
    return {OURS + impl: impl for impl in impls}


def make_columns(
    makers: Mapping[str, Callable[[], Draws]], wanted: tuple[str, ...], name: str
) -> dict[str, Draws]:
    """Make the columns that are wanted; say which cannot run."""
    made = {}
    for column, make in makers.items():
        if not is_wanted(column, wanted):
            continue
        try:
            made[column] = make()
        except ImplementationUnavailable as error:
            print(f"{name}: no {column}: {error}")
    return made


class Stream:
    """A sampler of sequences and where it is."""

    def __init__(self, sampler: Any, levels: Tensor) -> None:
        self.sampler = sampler
        self.begin = sampler.feed(sampler.start(len(levels)), levels)
        self.start()

    def start(self) -> None:
        self.state = self.begin.clone()

    def draw(self, noise: Tensor) -> Tensor:
        levels, self.state = self.sampler.draw(self.state, noise=noise)
        return levels


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
    other ways: one sample in fifty may. Units within rounding of a ReLU's bend move gradients.
    """
    noise = case.noise(1)
    found = {column: tensors(draws.draw(noise)) for column, draws in case.columns.items()}
    first, *expected = next(iter(found.values()))
    for column, (x, *gradients) in found.items():
        is_off = ((x - first).abs() > 1e-3 * (1 + first.abs())).any(1)
        are_off = [
            bool((mine - right).norm() > 1e-2 * right.norm())
            for mine, right in zip(gradients, expected, strict=True)
        ]
        if float(is_off.double().mean()) > 0.02 or any(are_off):
            raise RedContract(f"{case.name}: {column} draws otherwise")
