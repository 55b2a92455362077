"""A masked network as its sweeps in C++ and CUDA take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast.sampling.interrupted import undisturbed
from dgm_fast.sampling.masked_mlp import op
from dgm_fast.sampling.masked_mlp.layout import MaskedLayout
from dgm_fast.sampling.masked_mlp.network import ACTIVATIONS, MaskedNetwork
from dgm_fast.sampling.masked_mlp.state import MaskedState
from dgm_fast.sampling.masked_mlp.steps import KernelStep
from dgm_fast.sampling.masked_mlp.stretches import stretches_of
from dgm_fast.sampling.noise import AnyNoise, noise_arguments

__all__ = ["PackedNetwork", "PackedSweep", "block_of", "pack_blocks", "pack_stretches"]

# Units of a level that a block adds, about: a few tiles of rows. Larger blocks have larger
# triangles, whose products are small; smaller ones read what is known more often.
_UNITS = 42


def block_of(layout: MaskedLayout) -> int:
    """Return the number of features of a block of the sweep on a CPU."""
    widest = max((*layout.hidden, layout.features))
    return min(32, max(1, _UNITS * layout.features // widest))


@dataclass(frozen=True)
class PackedNetwork:
    """Arguments of the operator.

    Attributes:
        weights: on a CPU all live ones in the order in which they are used, on a GPU of each edge.
        biases: of hidden units and parameters, level by level.
        starts: of each level its first unit of each step.
        order: (D,), the feature of each step.
        sizes: as the kernel's `plan_of`, or `network_of`, has them; the fifth is the block.
    """

    weights: list[Tensor]
    biases: Tensor
    starts: Tensor
    order: Tensor
    sizes: list[int]


def pack_blocks(network: MaskedNetwork, block: int | None) -> PackedNetwork:
    """Copy the live weights, input-major in the order in which a CPU uses them."""
    layout = network.layout
    sizes = [*_sizes(network, block_of(layout) if block is None else block), *layout.hidden]
    weights = [weight.detach().float().contiguous() for *_, weight in network.edges]
    rows = [layout.units[target] for _, target, _ in network.edges]
    # None at all of a level that is sorted already.
    columns = [
        layout.units[source][: 0 if layout.is_sorted[source] else None]
        for source, *_ in network.edges
    ]
    packed = op.pack(weights, rows, columns, layout.starts, sizes)
    biases = _sorted_biases(network.biases, layout.units[1:])
    return PackedNetwork([packed], biases, layout.starts, layout.order, sizes)


def pack_stretches(network: MaskedNetwork, block: int | None) -> PackedNetwork:
    """Copy the weights, input-major with the units of each stretch together."""
    layout = network.layout
    device = network.weights[0].device
    stretches = stretches_of(layout, block, network.is_direct, device)
    weights, biases = stretches.packed([weight for *_, weight in network.edges], network.biases)
    sizes = [*_sizes(network, stretches.size), *stretches.units, *stretches.widest, *layout.hidden]
    return PackedNetwork(weights, biases, stretches.starts, stretches.order, sizes)


class PackedSweep:
    """Sweeps through a packed network.

    Arguments:
        network: that was packed.
        step: what makes a feature of its parameters.
        packed: the network as the kernel takes it.
        go_on: the kernel.
    """

    def __init__(
        self,
        network: MaskedNetwork,
        step: KernelStep,
        packed: PackedNetwork,
        go_on: Callable[..., None],
    ) -> None:
        self.features, self.packed, self.block = network.layout.features, packed, packed.sizes[4]
        self.skips = list(network.skips) or [0] * len(network.layout.hidden)
        self.activation = ACTIVATIONS.index(network.activation)
        self.kind, self.constants = step.integers, step.constants
        self._go_on = go_on

    def go_on(self, state: MaskedState, noise: AnyNoise, end: int) -> None:
        """Move the state on to step `end`, in place."""
        packed = self.packed
        # The kernel adds to log_det in place.
        with undisturbed():
            self._go_on(
                state.x,
                state.levels,
                state.log_det,
                state.context,
                packed.weights,
                packed.biases,
                packed.starts,
                packed.order,
                *noise_arguments(noise),
                state.given,
                packed.sizes,
                self.skips,
                self.activation,
                self.kind,
                self.constants,
                state.step,
                end,
                # Of a sweep that ends nobody asks what units hold.
                end < self.features,
            )
            state.step = end


def _sizes(network: MaskedNetwork, block: int) -> list[int]:
    layout = network.layout
    sizes = [layout.features, layout.context, layout.parameters, len(layout.hidden)]
    return [*sizes, block, int(network.is_direct)]


def _sorted_biases(biases: Sequence[Tensor | None], units: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            torch.zeros(len(order)) if bias is None else bias.detach().float()[order]
            for bias, order in zip(biases, units, strict=True)
        ]
    )
