"""Noise that a GPU's kernel draws where it uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating, check_tensor
from dgm_fast._core.random import as_seed, draw_seed
from dgm_fast.ops import philox_uniform

__all__ = ["AnyNoise", "SeededNoise", "draw_uniforms", "drawn", "noise_arguments", "noise_for"]

# Of a sample: Philox counts groups of four in 32 bits.
_PLACES = 2**34


@dataclass(frozen=True)
class SeededNoise:
    r"""The noise (B, n, N) that a seed stands for.

    .. math:: \epsilon_{bpk} = \mathrm{philox}(\text{seed}, \text{stream } k, \text{sample }
              \text{rows}_b, \text{element } \text{places}_p)

    A sampler on a GPU that is given it draws each number where it uses it, and the whole takes no
    memory; any other sampler is given `tensor()`, and draws the same samples. A kernel knows what
    its distribution draws, and does not call `draw`.

    Attributes:
        seed: (), int64.
        draw: makes the tensor, `draw(samples, places, seed, dtype)`: the `draw_noise` of the
            distribution that is sampled.
        numbers: N.
        rows: the samples.
        places: of each sample.
        dtype: of the tensor.

    Raises:
        TypeError, ValueError: the seed is not one int64, or samples or places do not follow one
            another, or Philox has no such places.

    Example:
        >>> import torch
        >>> from dgm_fast.distributions import BernoulliConditional
        >>> from dgm_fast.sampling import SeededNoise
        >>> draw = BernoulliConditional().draw_noise
        >>> noise = SeededNoise(torch.tensor(7), draw, 1, range(4), range(10))
        >>> noise[1:, 5:].shape, torch.equal(noise[1:, 5:].tensor(), noise.tensor()[1:, 5:])
        ((3, 5, 1), True)
    """

    seed: Tensor
    draw: Callable[[int, int, Tensor, torch.dtype], Tensor]
    numbers: int
    rows: range
    places: range
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_tensor("seed", self.seed)
        object.__setattr__(self, "seed", as_seed(self.seed, self.seed.device))
        for name, value in (("rows", self.rows), ("places", self.places)):
            if value.start < 0 or value.step != 1:
                raise ValueError(f"{name} must be range(begin, end) with begin >= 0; got {value}")
        if self.places.stop > _PLACES:
            raise ValueError(f"places must end at {_PLACES} at most; got {self.places}")

    @classmethod
    def from_generator(
        cls,
        generator: torch.Generator | None,
        draw: Callable[[int, int, Tensor, torch.dtype], Tensor],
        shape: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> SeededNoise:
        """Draw a seed, from torch's own generator by default, of noise of a shape (B, n, N)."""
        batch, count, numbers = shape
        if batch < 0 or count < 0:
            raise ValueError(f"shape must have no negative sizes; got {tuple(shape)}")
        seed = draw_seed(device, generator)
        return cls(seed, draw, numbers, range(batch), range(count), dtype)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, n and N."""
        return len(self.rows), len(self.places), self.numbers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> AnyNoise:
        """Return the noise of some samples and places: of slices seeded, of others drawn."""
        both = index if isinstance(index, tuple) else (index, slice(None))
        if len(both) == 2 and all(isinstance(i, slice) and i.step in (None, 1) for i in both):
            rows, places = both
            return replace(self, rows=self.rows[rows], places=self.places[places])
        return self.tensor()[index]

    def to(self, device: torch.device | str) -> SeededNoise:
        """Return the same noise for another device."""
        return replace(self, seed=self.seed.to(device))

    def tensor(self) -> Tensor:
        """Draw it, and for that all that comes before."""
        whole = self.draw(self.rows.stop, self.places.stop, self.seed, self.dtype)
        return whole[self.rows.start :, self.places.start :]


AnyNoise = Tensor | SeededNoise


def draw_uniforms(samples: int, places: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
    """Draw the uniforms (samples, places, 1) that decide tokens."""
    dtype = torch.promote_types(dtype, torch.float32)
    return philox_uniform((samples, places), seed=seed, dtype=dtype).unsqueeze(-1)


def drawn(noise: AnyNoise) -> Tensor:
    """Return noise as a tensor."""
    return noise.tensor() if isinstance(noise, SeededNoise) else noise


def noise_for(
    noise: AnyNoise, impl: str, device: torch.device, dtype: torch.dtype | None = None
) -> AnyNoise:
    """Return noise as an implementation takes it: only kernels of GPUs draw it from a seed.

    Raises:
        TypeError: it is neither floating-point nor seeded.
    """
    if isinstance(noise, SeededNoise) and impl == "cuda":
        return noise.to(device)
    noise = drawn(noise)
    check_floating("noise", noise)
    return noise.detach().to(device, dtype or noise.dtype).contiguous()


def noise_arguments(noise: AnyNoise | None) -> tuple[Tensor | None, Tensor | None, list[int]]:
    """Return an operator's arguments: the noise, or its seed and what is drawn from that."""
    if not isinstance(noise, SeededNoise):
        return noise, None, []
    return None, noise.seed, [noise.rows.start, noise.places.start, len(noise.places)]
