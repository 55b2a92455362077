"""A data set as plain tensors, and the one iterator of training batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Batch",
    "Binarization",
    "Dataset",
    "Split",
    "make_dataset",
    "make_generator",
    "train_batches",
]

Binarization = Literal["static", "dynamic", "none", "dequantized"]
BINARIZATIONS: tuple[str, ...] = get_args(Binarization)

Split = Literal["train", "validation", "test"]

STATIC_SEED = 20150601
"""Seed of every draw that must be the same for all users: binarization, dequantization, splits."""


@dataclass(frozen=True)
class Dataset:
    """Hold three splits of flat rows and how a training batch is drawn from them.

    Shapes:
        `train`, `validation`, `test`: (N, D) with D = prod(`event_shape`). `validation` and `test`
        are float32 and final. `train` is what `draw` takes: grey levels (uint8) where every epoch
        has fresh noise, final float32 rows otherwise.

        `labels`: (N,) int64 in 0 .. `classes` - 1 for every split, or empty where there are none.

    Values are the integers 0 .. `levels` - 1; with `continuous`, they are dequantized to [0, 1).
    """

    name: str
    binarization: Binarization
    train: Tensor
    validation: Tensor
    test: Tensor
    levels: int
    event_shape: tuple[int, ...]
    draw: Callable[[Tensor, torch.Generator], Tensor]
    continuous: bool = False
    labels: dict[Split, Tensor] = field(default_factory=dict)
    classes: int = 0

    @property
    def features(self) -> int:
        """Number of values in one row, D."""
        return math.prod(self.event_shape)

    @property
    def view(self) -> str:
        """How the values were made, in words."""
        if self.binarization == "none":
            return f"{self.levels} grey levels"
        return "dequantized" if self.continuous else f"{self.binarization} binarization"

    @property
    def unit(self) -> str:
        """What a bit is counted for: a value, that is, a dimension."""
        return "dim"

    @property
    def tests_on_validation(self) -> bool:
        """Whether there are no rows to test on but those that validate."""
        return torch.equal(self.test, self.validation)

    def split(self, name: Split, limit: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the rows of a split, or the first `limit` of them, and their labels if any."""
        labels = self.labels.get(name)
        return getattr(self, name)[:limit], None if labels is None else labels[:limit]

    def fixed_train(self) -> Tensor:
        """Draw the training rows once, with the seed that all users share: (N, D), float32."""
        return self.draw(self.train, make_generator(STATIC_SEED, 0))


class Batch(NamedTuple):
    """Hold the rows of one training step, (B, D), and their labels, (B,), where there are any."""

    x: Tensor
    labels: Tensor | None


def make_generator(*key: int) -> torch.Generator:
    """Make a CPU generator from a key of integers, for example (seed, epoch, batch).

    NumPy's SeedSequence mixes the key, so near keys give unrelated streams.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def make_dataset(
    name: str,
    splits: tuple[Tensor, Tensor, Tensor],
    levels: int,
    binarization: Binarization = "none",
    labels: tuple[Tensor, Tensor, Tensor] | None = None,
    classes: int = 0,
) -> Dataset:
    r"""Make a data set from grey levels (train, validation, test).

    - "none": the grey levels 0 .. levels - 1 themselves (8-bit for MNIST).
    - "static": one fixed draw $b \sim \mathrm{Bernoulli}(x / (\text{levels} - 1))$ of every split,
      by a fixed seed on the CPU, so equal for all users and machines.
    - "dynamic": a fresh draw for each training batch; validation and test are the static draw,
      so figures of one run compare with each other.
    - "dequantized": $(x + u) / \text{levels}$, $u \sim U[0, 1)$ fresh for each training batch, for
      continuous densities; validation and test are drawn once.

    Shapes:
        `splits`: three uint8 tensors (N, *E); rows come out flat, (N, prod(E)). `labels`: three
        tensors (N,) of integers 0 .. `classes` - 1.

    Raises:
        ValueError: `binarization` is none of the four.
    """
    event_shape = tuple(splits[0].shape[1:])
    train, validation, test = (split.flatten(1) for split in splits)
    draw = _draw_of(binarization, levels)
    fixed = [
        draw(split, make_generator(STATIC_SEED, i))
        for i, split in enumerate((train, validation, test))
    ]
    fresh = binarization in ("dynamic", "dequantized")
    binary = binarization in ("static", "dynamic")
    return Dataset(
        name=name,
        binarization=binarization,
        train=train if fresh else fixed[0],
        validation=fixed[1],
        test=fixed[2],
        levels=2 if binary else levels,
        event_shape=event_shape,
        draw=draw if fresh else _as_float,
        continuous=binarization == "dequantized",
        labels=dict(zip(get_args(Split), (each.long() for each in labels or ()), strict=False)),
        classes=classes,
    )


def train_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield the batches of one epoch from number `start` on: (batch_size / world_size, D), float32.

    Order and noise are functions of (seed, epoch, batch number) alone, so a resumed run sees what
    an uninterrupted one would have, and the shards of all ranks together are the batch of one
    process. The last, incomplete batch is left out.

    Raises:
        ValueError: `batch_size` exceeds the number of rows or is no multiple of `world_size`.
    """
    batches = steps_per_epoch(dataset, batch_size)
    if batch_size % world_size:
        raise ValueError(f"batch_size must be a multiple of {world_size} processes: {batch_size}")

    order = torch.randperm(len(dataset.train), generator=make_generator(seed, epoch))
    labels = dataset.labels.get("train")
    for batch in range(start, batches):
        place = order[batch * batch_size : (batch + 1) * batch_size]
        x = dataset.draw(dataset.train[place], make_generator(seed, epoch, 1 + batch))
        mine = place[rank::world_size]
        yield Batch(
            x[rank::world_size].to(device, non_blocking=True),
            None if labels is None else labels[mine].to(device, non_blocking=True),
        )


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Count the whole batches of one epoch.

    Raises:
        ValueError: there is none, `batch_size` exceeds the number of training rows.
    """
    if not 1 <= batch_size <= len(dataset.train):
        raise ValueError(
            f"batch_size must lie in 1 .. {len(dataset.train)} (training rows); got {batch_size}"
        )
    return len(dataset.train) // batch_size


def _draw_of(binarization: str, levels: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    draws = {
        "none": _as_float,
        "static": partial(_bernoulli, levels=levels),
        "dynamic": partial(_bernoulli, levels=levels),
        "dequantized": partial(_dequantize, levels=levels),
    }
    if binarization not in draws:
        raise ValueError(
            f"binarization must be one of {', '.join(BINARIZATIONS)}; got {binarization!r}"
        )
    return draws[binarization]


def _as_float(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows.float()


def _bernoulli(rows: Tensor, generator: torch.Generator, levels: int) -> Tensor:
    # torch.rand is serial and equal everywhere on the CPU; torch.bernoulli depends on the build.
    return (torch.rand(rows.shape, generator=generator) < rows / (levels - 1)).float()


def _dequantize(rows: Tensor, generator: torch.Generator, levels: int) -> Tensor:
    # float32 rounds levels - 1 + (1 - 2^-24) up to levels: the clamp keeps the value below 1.
    x = (rows + torch.rand(rows.shape, generator=generator)) / levels
    return x.clamp(max=1 - 2**-24)
