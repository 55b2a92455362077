"""Blocks whose passes are the replay of a CUDA graph."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgm_fast._core.implementation import requested
from dgm_fast._core.integers import ceil_div
from dgm_fast._core.precision import products_in_tf32
from dgm_fast.sampling.graph import StepGraph
from dgm_fast.sampling.masked_mlp.blocks import Block, MaskedBlocks, rounds
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.padded import padded_of
from dgm_fast.sampling.masked_mlp.steps import Step

__all__ = ["PASSES", "GraphedBlocks"]

Replay = Callable[..., tuple[Tensor, ...]]

# Of a replay, after which the host looks whether they were enough.
PASSES = 4

# A pass of a few features takes a GPU as long as one of more, and more of them take fewer passes in
# all, as far as features and their parameters go; beyond that it is work.
_MOST_FEATURES, _MOST_PARAMETERS = 256, 2**14

# Batches are padded up to few numbers, so that few graphs do: powers of two, then multiples of the
# last of them.
_FEWEST_ROWS, _MOST_DOUBLED = 16, 256

# Floats of all levels: with more, work takes the time, and not launches.
_MOST_FLOATS = 2**23
# Each takes some megabytes, and up to ten times those floats.
_MOST_KEPT = 4


class GraphedBlocks(MaskedBlocks):
    """Iterates as `MaskedBlocks` does, without the launches of its passes: on a GPU.

    Only passes are captured. What a block begins with are products of another shape each, launched
    one by one, and what they leave is copied to tensors that stay, with zeros up to the widest
    block. So a graph knows neither weights nor block, and one serves all blocks of all networks of
    the same widths; it is kept for the samplers to come.

    Arguments:
        network: the network.
        dtype: of the computation.
        block: features of a block; default as many as take a GPU no longer than a few.

    Attributes:
        capture: turns passes and their input into what replays them; plain calls, for a test.
    """

    capture: Callable[..., Replay] = StepGraph

    @torch.no_grad()
    def __init__(
        self, network: MaskedNetwork, dtype: torch.dtype, block: int | None = None
    ) -> None:
        layout = network.layout
        most = max(1, min(_MOST_FEATURES, _MOST_PARAMETERS // layout.parameters))
        super().__init__(network, dtype, min(block or most, layout.features))
        edges = [(s, target) for target, each in enumerate(self.edges) for s, _ in each]
        weights = [weight for each in self.edges for _, weight in each]
        padded = padded_of(layout, self.block, edges, self.order.device)
        self.within, self.widths = padded.within(weights), padded.widths
        self.pairs = tuple(edges)

    def _iterate(self, levels: Sequence[Tensor], block: Block, step: Step) -> tuple[Tensor, Tensor]:
        B, n = block.x.shape
        rows = _rows_of(B)
        if B == 0 or rows * sum(self.widths) > _MOST_FLOATS:
            return super()._iterate(levels, block, step)

        key = self._key(rows, step)
        # Another thread finds it gone, and makes its own.
        passes = _kept.pop(key, None) or self.passes_of(rows, step)
        try:
            seen, found, parameters, *hidden = passes.solve(block, self.within)
            values = [step.encode(seen), *hidden]
            for level, value in enumerate(values):
                to = self.layout.span(level, block.first, block.last)
                levels[level][:, to] = value[:B, : to.stop - to.start]
            # Copied, because the next to replay overwrites them.
            found, parameters = found[:B, :n].clone(), parameters[:B, :n]
            return found, parameters.clone() if step.is_flow else parameters
        finally:
            _keep(key, passes)

    def passes_of(self, rows: int, step: Step) -> Passes:
        """Return passes of a batch, captured."""
        # What is kept is for callers that infer and for those that do not.
        with torch.inference_mode(False), torch.no_grad():
            return Passes(self, rows, step)

    def _key(self, rows: int, step: Step) -> tuple[object, ...]:
        device = self.order.device
        # Tensors that stay are for one stream, whose work comes one after another.
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        network = self.widths, self.pairs, tuple(self.skips), self.activation, self.capture
        # Steps are equal whatever runs them.
        impl = requested(getattr(step, "impl", "auto"))
        return *network, rows, step, impl, self.dtype, products_in_tf32(), device, stream


class Passes:
    """Passes of a block on tensors that stay, in the widest block's sizes.

    Arguments:
        blocks: of which one; nothing of them is kept but their sizes.
        rows: of the batch.
        step: what makes a feature of its parameters.
    """

    def __init__(self, blocks: GraphedBlocks, rows: int, step: Step) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=blocks.dtype, device=blocks.order.device)

        n, widths = blocks.block, blocks.widths
        self.step, self.activation, self.skips = step, blocks.activation, tuple(blocks.skips)
        self.parameters = blocks.layout.parameters
        self.known = [zeros(rows, width) for width in widths[1:]]
        self.within = zeros(blocks.within.shape[1])
        self.noise, self.x = zeros(rows, n, step.noise), zeros(rows, n)
        self.fixed = torch.ones_like(self.x, dtype=torch.bool)

        sizes = [(widths[target], widths[source]) for source, target in blocks.pairs]
        parts = self.within.split([a * b for a, b in sizes])
        self.edges: list[list[tuple[int, Tensor]]] = [[] for _ in widths]
        for (source, target), part, size in zip(blocks.pairs, parts, sizes, strict=True):
            self.edges[target].append((source, part.view(size)))
        self.replay = blocks.capture(self._run, self.x)

    def solve(self, block: Block, within: Tensor) -> tuple[Tensor, ...]:
        """Return what the network sees of a block, its features, parameters, and hidden levels.

        The next call overwrites them. Beyond the block and the batch they hold anything.
        """
        n = block.last - block.first
        self._take(block, within[block.first // self.x.shape[1]])
        seen = self.x.nan_to_num(0.0, 0.0, 0.0)
        # One pass more lets the hidden units see the last change.
        for _ in range(ceil_div(n + 1, PASSES)):
            is_done, seen, *rest = self.replay(seen)
            if bool(is_done):
                break
        return seen, *rest

    def _take(self, block: Block, within: Tensor) -> None:
        B, n = block.x.shape
        # Units that are not of the block see nothing: an infinity would be NaN to all others.
        torch._foreach_zero_(self.known)
        for mine, given in zip(self.known, block.known[1:], strict=True):
            mine[:B, : given.shape[1]] = given
        self.within.copy_(within)
        self.x[:B, :n] = block.x
        self.noise[:B, :n] = block.noise
        # Nobody waits for what is not of the block.
        self.fixed.fill_(True)
        self.fixed[:B, :n] = block.fixed

    def _run(self, seen: Tensor) -> tuple[Tensor, ...]:
        """Return whether the last pass changed nothing, what there is now, and hidden levels."""
        for _ in range(PASSES):
            previous = seen
            parameters, hidden = self._pass(self.step.encode(seen))
            made = self.step.make(parameters, self.noise)[0].to(self.x.dtype)
            found = torch.where(self.fixed, self.x, made)
            seen = found.nan_to_num(0.0, 0.0, 0.0)
        return rounds(seen - previous, seen), seen, found, parameters, *hidden

    def _pass(self, first: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the units of a block once; return its parameters (B, n, P) and hidden levels."""
        values, sums = [first], [first]
        for target, edges in enumerate(self.edges[1:], start=1):
            z = self.known[target - 1]
            for source, weight in edges:
                z = torch.addmm(z, values[source], weight.T)
            if target <= len(self.skips):
                skip = self.skips[target - 1]
                sums.append(z if skip == 0 else z + sums[skip])
                values.append(self.activation(sums[-1]))
        return z.unflatten(1, (-1, self.parameters)), values[1:]


# Of all networks, those last used come last. They go before CUDA does.
_kept: dict[tuple[object, ...], Passes] = {}
atexit.register(_kept.clear)


def _keep(key: tuple[object, ...], passes: Passes) -> None:
    _kept[key] = passes
    for oldest in list(_kept)[:-_MOST_KEPT]:
        _kept.pop(oldest, None)


def _rows_of(batch: int) -> int:
    """Return how many samples those of a batch are padded to."""
    if batch > _MOST_DOUBLED:
        return ceil_div(batch, _MOST_DOUBLED) * _MOST_DOUBLED
    return max(_FEWEST_ROWS, 1 << (batch - 1).bit_length())
