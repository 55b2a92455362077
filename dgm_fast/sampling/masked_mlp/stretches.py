"""The units of a masked network as its CUDA sweep has them, and whether that fits a GPU."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.gpu_blocks import (
    QUAD,
    ROWS,
    SEGMENTS,
    TASKS,
    bytes_of,
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


class Stretches:
    """A layout whose units come in stretches of features, each padded to whole chunks of a product.

    Arguments:
        layout: of the units.
        size: features of a stretch.
        device: of what the kernel reads.

    Attributes:
        units: of each level, padding included.
        widest: units of each level, the most that a stretch has, padding included.
        starts: (L + 2, D + 1 and stretches + 1), int64: a level's first unit of each step, and the
            place of its first one of each stretch.
        order: (D,), the feature of each step.
        places: of each level, where each unit, as the weights number them, lies.
    """

    def __init__(self, layout: MaskedLayout, size: int, device: torch.device) -> None:
        self.layout, self.size = layout, size
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

    def within(self, direct: bool) -> int:
        """Return how many floats of weights within a stretch there are at most."""
        ends = zip(self.widest[:-1], self.widest[1:], strict=True)
        return sum(a * b for a, b in ends) + direct * self.widest[0] * self.widest[-1]

    def packed(self, weight: Tensor, source: int, target: int) -> Tensor:
        """Return a weight (out, in) as (in, out) with all units in their places, zeros between."""
        packed = weight.new_zeros(self.units[source], self.units[target], dtype=torch.float32)
        places = self.places[source][:, None], self.places[target]
        return packed.index_put_(places, weight.detach().float().T)

    def packed_bias(self, bias: Tensor | None, level: int) -> Tensor:
        """Return the bias of a level likewise."""
        packed = torch.zeros(self.units[level], dtype=torch.float32, device=self.order.device)
        if bias is not None:
            packed[self.places[level]] = bias.detach().float()
        return packed


# Made for each call of a flow's inverse otherwise.
@lru_cache(maxsize=64)
def stretches_of(
    layout: MaskedLayout, size: int | None, direct: bool, device: torch.device
) -> Stretches:
    """Return a layout's stretches; of features as many as `size` says, or as are worth it."""
    if size is not None:
        return Stretches(layout, size, device)

    widest = max((*layout.hidden, layout.features))
    size = min(_MOST_FEATURES, max(1, _UNITS * layout.features // widest))
    while size > 1 and Stretches(layout, size, torch.device("cpu")).within(direct) > _WITHIN:
        size //= 2
    return Stretches(layout, size, device)


def unavailable_reason(network: MaskedNetwork, step: KernelStep, block: int | None) -> str | None:
    """Return why the kernel cannot run a network on its GPU, or None when it can."""
    gpu = network.weights[0].device
    reason = too_old(gpu) or _too_deep(network)
    if reason is not None:
        return reason

    stretches = stretches_of(network.layout, block, network.is_direct, gpu)
    needed = shared_bytes(stretches, network.is_direct, step)
    return _too_large(network, stretches) or shares_too_much(gpu, needed, "a sample")


def _too_deep(network: MaskedNetwork) -> str | None:
    hidden = len(network.layout.hidden)
    if hidden > _MOST_HIDDEN:
        return f"it has at most {_MOST_HIDDEN} hidden layers; got {hidden}"
    return None


def _too_large(network: MaskedNetwork, stretches: Stretches) -> str | None:
    largest = max(stretches.units[a] * stretches.units[b] for a, b, _ in network.edges)
    return too_large([("a weight", largest)])


def shared_bytes(stretches: Stretches, direct: bool, step: KernelStep) -> int:
    """Return what a block of one sample shares, as `Shared` of the kernel has it."""
    layout, size = stretches.layout, stretches.size
    count, hidden = ceil_div(layout.features, size), len(layout.hidden)
    sizes = [*stretches.units[:-1], *stretches.widest[1:]]
    sizes += [size * step.noise, size, size, size]
    sizes += [layout.parameters, SEGMENTS, 2 * SEGMENTS]
    sizes += [max(TASKS * QUAD, *stretches.widest[1:])]
    sizes += [(hidden + 2) * (count + 1), hidden * (size + 1)]
    sizes += [_ROUTE * (hidden + 1 + direct)]
    within = stretches.within(direct)
    return bytes_of([*sizes, within if within <= _MOST_STAGED else 0])
