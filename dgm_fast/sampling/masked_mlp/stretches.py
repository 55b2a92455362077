"""The units of a masked network as its CUDA sweep has them, and whether that fits a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.gpu_blocks import (
    ROWS,
    SEGMENTS,
    bytes_of,
    most_sums,
    shares_too_much,
    too_large,
    too_old,
)
from dgm_fast.sampling.masked_mlp.layout import MaskedLayout
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.steps import KernelStep

__all__ = ["Stretches", "shared_bytes", "stretches_of", "unavailable_reason"]

# As in csrc: masked_sweep/block_problem.h and block_stage.h.
_MOST_HIDDEN, _MOST_STAGED, _ROUTE = 32, 16384, 8

# Units of a level that a stretch adds, about, and floats of weights within it. Longer stretches
# have larger triangles, of which threads of one sample take all; shorter ones wait more often.
_UNITS, _MOST_FEATURES, _WITHIN = 40, 32, 8192

# Floats of packed weights, of all layouts together, of which it is kept where each comes from: in
# up to 64 MiB.
_MOST_NUMBERED = 2**24


class Stretches:
    """A layout whose units come in stretches of features, each padded to whole chunks of a product.

    Arguments:
        layout: of the units; not kept.
        size: features of a stretch.
        direct: whether inputs go to outputs beside hidden layers.
        device: of what the kernel reads.

    Attributes:
        units: of each level, padding included.
        widest: units of each level, the most that a stretch has, padding included.
        starts: (L + 2, D + 1 and stretches + 1), int64: a level's first unit of each step, and the
            place of its first one of each stretch.
        order: (D,), the feature of each step.
        places: of each level, where each unit, as the weights number them, lies.
        edges: which level goes to which; direct connections last.
        floats: of the weight of each edge, padding included.
        shared: bytes that a block of one sample shares, but for its noise.
    """

    def __init__(self, layout: MaskedLayout, size: int, direct: bool, device: torch.device) -> None:
        self.size = size
        borders = [*range(0, layout.features, size), layout.features]
        starts = layout.starts[:, borders]
        # The context comes before all stretches, and units that no feature sees after them.
        counts = starts.new_tensor([[len(units)] for units in layout.units])
        firsts = torch.cat([torch.zeros_like(counts), starts, counts], dim=1)
        padded = (firsts.diff(dim=1) + ROWS - 1) // ROWS * ROWS
        begins = torch.cat([torch.zeros_like(counts), padded.cumsum(1)], dim=1)

        places = []
        for level, units in enumerate(layout.units):
            numbers = torch.arange(len(units), device=units.device)
            group = torch.searchsorted(firsts[level], numbers, right=True) - 1
            place = torch.empty_like(units)
            place[units] = begins[level, group] + numbers - firsts[level, group]
            places.append(place.to(device))
        self.places = places
        self.units = begins[:, -1].tolist()
        self.widest = padded[:, 1:-1].amax(1).tolist()
        self.starts = torch.cat([layout.starts, begins[:, 1:-1]], dim=1).to(device)
        self.order = layout.order.to(device)
        self.edges = [
            *pairwise(range(layout.levels + 1)),
            *([(0, layout.levels)] if direct else []),
        ]
        self.floats = [self.units[a] * self.units[b] for a, b in self.edges]
        self.shared = self._shared(layout)
        # What lies between units, and biases where there are none.
        most = max(1, *(len(units) for units in layout.units))
        self._zeros = torch.zeros(most, dtype=torch.float32).to(device)

    @property
    def within(self) -> int:
        """How many floats of weights within a stretch there are at most."""
        return sum(self.widest[a] * self.widest[b] for a, b in self.edges)

    @torch.no_grad()
    def packed(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], Tensor]:
        """Return the weights of edges (out, in) as (in * out,), and the biases of all levels.

        All units are in their places, with zeros between.
        """
        biases = [
            self._zeros[: len(places)] if bias is None else bias
            for bias, places in zip(biases, self.places[1:], strict=True)
        ]
        if self._is_numbered:
            flat = [each.flatten().float() for each in (*weights, *biases)]
            packed = torch.cat([self._zeros[:1], *flat]).index_select(0, self._numbers)
        else:
            packed = self._placed(weights, biases, torch.float32)
        *weights, biases = packed.split([*self.floats, sum(self.units[1:])])
        return weights, biases

    @cached_property
    def _is_numbered(self) -> bool:
        """Whether there is room for `_numbers`; so many sets of masks may a model have."""
        kept = sum(sum(each.floats) for each in _numbered)
        if kept + sum(self.floats) > _MOST_NUMBERED:
            return False
        _numbered.add(self)
        return True

    @cached_property
    def _numbers(self) -> Tensor:
        """Which of a zero, all weights and all biases in a row each packed float is, int32.

        Two launches pack a network by it, instead of one of each weight and each bias. Made on a
        CPU, as all that is kept: a copy is waited for, whichever stream asks for it first.
        """
        sizes = [len(places) for places in self.places]
        shapes = [(sizes[b], sizes[a]) for a, b in self.edges]
        counts = [*(a * b for a, b in shapes), *sizes[1:]]
        numbers = torch.arange(1, 1 + sum(counts), dtype=torch.int32)
        parts = numbers.split(counts)
        weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=False)]
        return self._placed(weights, parts[len(shapes) :], torch.int32).to(self.order.device)

    def _placed(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype
    ) -> Tensor:
        """Return weights and then biases as `packed` has them, in one tensor, one by one."""
        sizes, units = [*self.floats, *self.units[1:]], self.units
        packed = torch.zeros(sum(sizes), dtype=dtype, device=weights[0].device)
        parts = iter(packed.split(sizes))
        all_places = [each.to(packed.device) for each in self.places]
        for (a, b), weight in zip(self.edges, weights, strict=True):
            places = all_places[a][:, None], all_places[b]
            next(parts).view(units[a], units[b]).index_put_(places, weight.to(dtype).T)
        for places, bias in zip(all_places[1:], biases, strict=True):
            next(parts).index_put_((places,), bias.to(dtype))
        return packed

    def _shared(self, layout: MaskedLayout) -> int:
        count, hidden = ceil_div(layout.features, self.size), len(layout.hidden)
        sizes = [*self.units[:-1], *self.widest[1:], self.size, self.size, self.size]
        sizes += [layout.parameters, SEGMENTS, 2 * SEGMENTS]
        sizes += [most_sums(max(self.widest[1:]))]
        sizes += [(hidden + 2) * (count + 1), hidden * (self.size + 1)]
        sizes += [_ROUTE * len(self.edges)]
        return bytes_of([*sizes, self.within if self.within <= _MOST_STAGED else 0])


# Made for each call of a flow's inverse otherwise; they go with their layout, as its model does.
_known: WeakKeyDictionary[MaskedLayout, dict[tuple[object, ...], Stretches]] = WeakKeyDictionary()
# Of which it is kept where each float comes from.
_numbered: WeakSet[Stretches] = WeakSet()


def stretches_of(
    layout: MaskedLayout, size: int | None, direct: bool, device: torch.device
) -> Stretches:
    """Return a layout's stretches; of features as many as `size` says, or as are worth it."""
    known = _known.setdefault(layout, {})
    key = size, direct, device
    if key not in known:
        size = _best_size(layout, direct) if size is None else size
        known[key] = Stretches(layout, size, direct, device)
    return known[key]


def _best_size(layout: MaskedLayout, direct: bool) -> int:
    widest = max((*layout.hidden, layout.features))
    size = min(_MOST_FEATURES, max(1, _UNITS * layout.features // widest))
    cpu = torch.device("cpu")
    while size > 1 and Stretches(layout, size, direct, cpu).within > _WITHIN:
        size //= 2
    return size


def unavailable_reason(network: MaskedNetwork, step: KernelStep, block: int | None) -> str | None:
    """Return why the kernel cannot run a network on its GPU, or None when it can."""
    gpu = network.weights[0].device
    reason = too_old(gpu) or _too_deep(network)
    if reason is not None:
        return reason

    stretches = stretches_of(network.layout, block, network.is_direct, gpu)
    return too_large([("a weight", max(stretches.floats))]) or shares_too_much(
        gpu, shared_bytes(stretches, step), "a sample"
    )


def _too_deep(network: MaskedNetwork) -> str | None:
    hidden = len(network.layout.hidden)
    if hidden > _MOST_HIDDEN:
        return f"it has at most {_MOST_HIDDEN} hidden layers; got {hidden}"
    return None


def shared_bytes(stretches: Stretches, step: KernelStep) -> int:
    """Return what a block of one sample shares, as `Shared` of the kernel has it."""
    return stretches.shared + bytes_of([stretches.size * step.noise])
