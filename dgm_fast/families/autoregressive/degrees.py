"""Degrees: the places in an order that the units of a masked network know about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast.ops import philox_uniform

__all__ = ["Degrees", "even_degrees", "random_degrees", "random_places", "residual_skips"]


@dataclass(frozen=True)
class Degrees:
    """The degree of every unit of one set of masks, as int64 CPU tensors.

    Attributes:
        features: (D,), the places 1..D; a feature has the same degree as input and as output.
        hidden: (H,) for each hidden layer: such a unit knows the features of at most its degree.
    """

    features: Tensor
    hidden: tuple[Tensor, ...]

    @property
    def generation_order(self) -> list[int]:
        """The features in the order they are drawn."""
        return self.features.argsort().tolist()


def even_degrees(units: int, low: int, high: int) -> Tensor:
    """Spread low..high evenly over sorted units; however few they are, the last has `high`."""
    ends = torch.arange(1, units + 1) * (high - low + 1)
    return low + (ends + units - 1) // units - 1


def random_degrees(units: int, low: int, high: int, *, seed: int, draw: int, layer: int) -> Tensor:
    """Draw degrees uniformly from low..high; `draw` and `layer` tell draws of one seed apart."""
    return low + (_uniforms(units, seed, draw, 1 + layer) * (high - low + 1)).long()


def random_places(features: int, *, seed: int, draw: int) -> Tensor:
    """Draw a random order: the place in 1..D of every feature."""
    return _uniforms(features, seed, draw, 0).argsort(stable=True).argsort() + 1


def residual_skips(hidden: Sequence[int], residual: bool) -> tuple[int, ...]:
    """Return of each hidden layer the one, counted from 1, whose sums it adds to its own, or 0.

    A residual network's layers after the first are blocks of two, around each of which the sums go.

    Raises:
        ValueError: widths do not make blocks.
    """
    if not residual:
        return (0,) * len(hidden)
    if len(hidden) < 3 or len(hidden) % 2 == 0 or len(set(hidden[::2])) > 1:
        raise ValueError(
            "residual needs hidden to be a first layer and blocks of two, each of which ends as "
            f"wide as the first layer, such as (64, 32, 64); got {tuple(hidden)}"
        )
    return tuple(level - 2 if level > 1 and level % 2 else 0 for level in range(1, len(hidden) + 1))


def _uniforms(count: int, seed: int, draw: int, stream: int) -> Tensor:
    # Philox and not torch's generator: a checkpoint rebuilds its masks from the seed, and only a
    # specified generator promises the same ones in every version of torch.
    return philox_uniform(
        (1, count),
        seed=seed,
        sample_offset=draw,
        stream=stream,
        dtype=torch.float32,
        impl="reference",
    )[0]
