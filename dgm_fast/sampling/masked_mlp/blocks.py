"""Blocks of features in plain PyTorch, each iterated: the reference of the sweep, on any device.

An equation x_d = f(network(x_1 ... x_{d-1})) iterated with the whole network computes again and
again what is known. Here the features of a block are iterated alone and the blocks go in order:
what earlier units give to a block is computed once, a pass takes the block's own units only, and
the block is right after as many passes as it has features, mostly long before. A block of all
features is the fixed-point iteration of the whole network. The transposed system goes from the last
block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.sampling.interrupted import undisturbed
from dgm_fast.sampling.masked_mlp.network import MaskedNetwork
from dgm_fast.sampling.masked_mlp.state import MaskedState
from dgm_fast.sampling.masked_mlp.steps import Step

__all__ = [
    "BLOCK",
    "Block",
    "MaskedBlocks",
    "is_rounding",
    "is_rounding_of_any_size",
    "rounds",
]

# Features. Small blocks are many, and in large ones more units take part in every pass: of 16, 32
# and 64 the last cost an IAF of 784 least.
BLOCK = 64


def rounds(change: Tensor, x: Tensor) -> Tensor:
    """Return whether a pass changed x by no more than rounding does, a bool that nobody awaits."""
    unit = 4 * torch.finfo(x.dtype).eps
    return (change.abs() <= unit * (1 + x.abs())).all()


def is_rounding(change: Tensor, x: Tensor) -> bool:
    """Whether a pass changed x by no more than rounding does."""
    return bool(rounds(change, x))


@dataclass(frozen=True)
class Block:
    """Steps [first, last), and what their n features are made of.

    Attributes:
        known: of each level (B, units), what units before the block give to its sums; of the first
            None.
        noise: (B, n, N).
        x: (B, n), the features as they are.
        fixed: (B, n) bool, those that stay.
    """

    first: int
    last: int
    known: Sequence[Tensor | None]
    noise: Tensor
    x: Tensor
    fixed: Tensor


class MaskedBlocks:
    """The blocks of a network, with its weights as they are now and without a graph.

    Arguments:
        network: the network.
        dtype: of the computation.
        block: features of a block.
    """

    @torch.no_grad()
    def __init__(self, network: MaskedNetwork, dtype: torch.dtype, block: int = BLOCK) -> None:
        layout = network.layout
        self.layout, self.block, self.dtype = layout, block, dtype
        self.activation: Callable[[Tensor], Tensor] = getattr(F, network.activation)
        self.skips = network.skips or (0,) * len(layout.hidden)
        # Sorted, by the level they go to.
        self.edges: list[list[tuple[int, Tensor]]] = [[] for _ in range(layout.levels + 1)]
        for source, target, weight in network.edges:
            weight = layout.rearranged(weight.detach().to(dtype, copy=True), source, target)
            self.edges[target].append((source, weight))
        self.biases = [
            None if bias is None else bias.detach().to(dtype)[units.to(bias.device)]
            for bias, units in zip(network.biases, layout.units[1:], strict=True)
        ]
        self.order = layout.order.to(network.weights[0].device)

    def _blocks(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return first and last step of the blocks that steps [begin, end) are in."""
        first = begin // self.block * self.block
        return [(a, min(a + self.block, end)) for a in range(first, end, self.block)]

    @torch.no_grad()
    def go_on(self, state: MaskedState, noise: Tensor, end: int, step: Step) -> None:
        """Move the state on to step `end`, in place."""
        seen = step.encode(state.x[:, self.order].nan_to_num(0.0, 0.0, 0.0))
        if state.context is not None:
            seen = torch.cat([state.context, seen], dim=1)
        outputs = seen.new_zeros(len(seen), self.layout.features * self.layout.parameters)
        levels = [seen, *state.levels.split(self.layout.hidden, dim=1), outputs]
        for first, last in self._blocks(state.step, end):
            self._solve(state, levels, noise, (first, last), step)

    def _solve(
        self,
        state: MaskedState,
        levels: Sequence[Tensor],
        noise: Tensor,
        steps: tuple[int, int],
        step: Step,
    ) -> None:
        first, last = steps
        features = self.order[first:last]
        x = state.x[:, features]
        # What was drawn by a piece of this block, or is given, stays.
        fixed = (torch.arange(first, last, device=x.device) < state.step).expand_as(x)
        if state.given is not None:
            fixed = fixed | state.given[:, features]
        known, noise = self._known(levels, first, last), noise[:, features]

        found, parameters = self._iterate(levels, Block(first, last, known, noise, x, fixed), step)
        log_det = None
        if step.is_flow:
            new = slice(max(0, state.step - first), None)
            log_det = step.make(parameters[:, new], noise[:, new])[1]
        with undisturbed():
            state.x[:, features] = found
            if log_det is not None:
                state.log_det += log_det
            state.step = last

    def _iterate(self, levels: Sequence[Tensor], block: Block, step: Step) -> tuple[Tensor, Tensor]:
        """Fill the levels of a block; return its features (B, n) and their parameters."""
        first, last = block.first, block.last
        here, within = self.layout.span(0, first, last), self._within(first, last)
        previous = None
        # One pass more lets the hidden units see the last change.
        for _ in range(last - first + 1):
            parameters = self._pass(levels, block.known, within, first, last)
            made = step.make(parameters, block.noise)[0].to(block.x.dtype)
            found = torch.where(block.fixed, block.x, made)
            seen = found.nan_to_num(0.0, 0.0, 0.0)
            levels[0][:, here] = step.encode(seen)
            if previous is not None and is_rounding(seen - previous, seen):
                break
            previous = seen
        return found, parameters

    def _within(self, first: int, last: int) -> list[list[tuple[int, Tensor]]]:
        """Return what the units of a block give to each other, zero where degrees forbid it."""
        layout = self.layout
        return [
            [
                (
                    source,
                    weight[layout.span(target, first, last), layout.span(source, first, last)]
                    * layout.triangle(source, target, first, last).to(weight.device),
                )
                for source, weight in edges
            ]
            for target, edges in enumerate(self.edges)
        ]

    def _known(self, levels: Sequence[Tensor], first: int, last: int) -> list[Tensor | None]:
        """Return what units before a block give to the sums of each level of it."""
        known: list[Tensor | None] = [None]
        for target in range(1, len(levels)):
            to = self.layout.span(target, first, last)
            bias = self.biases[target - 1]
            total = levels[0].new_zeros(()) if bias is None else bias[to]
            for source, weight in self.edges[target]:
                before = self.layout.start(source, first)
                total = total + levels[source][:, :before] @ weight[to, :before].T
            known.append(total)
        return known

    def _pass(
        self,
        levels: Sequence[Tensor],
        known: Sequence[Tensor | None],
        within: Sequence[Sequence[tuple[int, Tensor]]],
        first: int,
        last: int,
    ) -> Tensor:
        """Run the units of a block once; return its parameters (B, n, P)."""
        sums: list[Tensor | None] = [None] * len(levels)
        for target in range(1, len(levels)):
            to = self.layout.span(target, first, last)
            z = known[target]
            for source, weight in within[target]:
                at = self.layout.span(source, first, last)
                z = torch.addmm(z, levels[source][:, at], weight.T)
            if target < self.layout.levels:
                skip = self.skips[target - 1]
                sums[target] = z = z if skip == 0 else z + sums[skip]
                levels[target][:, to] = self.activation(z)
        return z.unflatten(1, (last - first, self.layout.parameters))

    @torch.no_grad()
    def solve_transposed(
        self, grad: Tensor, slopes: Tensor, by_parameters: Tensor, hidden: Sequence[Tensor]
    ) -> Tensor:
        """Solve J^T w = grad for J = diag(slopes) + by_parameters d network / dx, (B, D).

        Of a network of ReLU layers, without direct connections, whose features and hidden units are
        in order.

        Arguments:
            grad: (B, D).
            slopes: (B, D).
            by_parameters: (B, D, P).
            hidden: what the hidden layers hold at x, after the ReLU.
        """
        layout, C = self.layout, self.layout.context
        weights = [edges[0][1] for edges in self.edges[1:]]
        levels = [grad.new_zeros(len(grad), C + layout.features)]
        levels += [torch.zeros_like(h) for h in hidden]
        levels.append(torch.zeros_like(by_parameters).flatten(1))
        w = levels[0][:, C:]

        for first, last in reversed(self._blocks(0, layout.features)):
            here = slice(first, last)
            spans = [layout.span(level, first, last) for level in range(layout.levels + 1)]
            steps = list(zip(weights, spans, spans[1:], strict=False))
            within = [edges[0][1] for edges in self._within(first, last)[1:]]
            known = [
                level[:, to.stop :] @ weight[to.stop :, at]
                for (weight, at, to), level in zip(steps, levels[1:], strict=False)
            ]
            live = [h[:, at] > 0 for h, at in zip(hidden, spans[1:], strict=False)]
            for _ in range(last - first + 1):
                back = (w[:, here, None] * by_parameters[:, here]).flatten(1)
                levels[-1][:, spans[-1]] = back
                for i in reversed(range(len(steps))):
                    back = torch.addmm(known[i], back, within[i])
                    if i > 0:
                        back = back * live[i - 1]
                        # Of the level whose sums take these, the same units.
                        for level, skip in enumerate(self.skips, start=1):
                            back = back + levels[level][:, spans[i]] if skip == i else back
                        levels[i][:, spans[i]] = back

                found = (grad[:, here] - back) / slopes[:, here]
                change = found - w[:, here]
                w[:, here] = found
                if is_rounding_of_any_size(change, w):
                    break
        return w


def is_rounding_of_any_size(change: Tensor, w: Tensor) -> bool:
    """Whether a pass changed gradients w (B, D) by no more than the largest of a sample rounds."""
    unit = 4 * torch.finfo(w.dtype).eps
    return bool((change.abs() <= unit * w.abs().amax(1, keepdim=True)).all())
