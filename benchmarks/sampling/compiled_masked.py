"""Blocks of features as `torch.compile` likes them: of MADE and of MAF's step.

What earlier units give to a block are the products of `MaskedBlocks`, of another shape each. One
compiled function iterates any block, whose units are padded to as many as the largest has, and
ends by itself; another lays the weights out for it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from benchmarks.sampling.compiled import Compiler
from dgm_fast.sampling.masked_mlp import AffineInverse, MaskedNetwork, SplineInverse, Step
from dgm_fast.sampling.masked_mlp.blocks import BLOCK

__all__ = ["CompiledBlocks"]


class CompiledBlocks:
    """The blocks of networks of a layout, without context.

    Arguments:
        network: one of them; each draw is given its own.
        step: of its features.
        compiler: of functions.
        block: features of a block.
    """

    def __init__(
        self, network: MaskedNetwork, step: Step, compiler: Compiler, block: int = BLOCK
    ) -> None:
        layout, device = network.layout, network.weights[0].device
        # The op's own kernel could not be fused.
        is_flow = isinstance(step, (AffineInverse, SplineInverse))
        self.step = replace(step, impl="reference") if is_flow else step
        self.layout, self.block = layout, min(block, layout.features)
        self.activation = getattr(F, network.activation)
        self.skips = network.skips or (0,) * len(layout.hidden)
        firsts = range(0, layout.features, self.block)
        self.spans = [(first, min(first + self.block, layout.features)) for first in firsts]
        self.widths = [
            max(len(range(*layout.span(level, *span).indices(1 << 30))) for span in self.spans)
            for level in range(layout.levels + 1)
        ]
        self.edges = [(source, target) for source, target, _ in network.edges]
        self.order = layout.order.to(device)
        self.picks = [
            [each.to(device) for each in self._picks(source, target)]
            for source, target in self.edges
        ]
        self._lay_out, self._solve = compiler(self.lay_out), compiler(self.solve)

    def _picks(self, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows and columns of the weights in each block, and which are there."""
        layout, sizes = self.layout, (self.widths[target], self.widths[source])
        rows = torch.zeros(len(self.spans), sizes[0], 1, dtype=torch.int64)
        columns = torch.zeros(len(self.spans), 1, sizes[1], dtype=torch.int64)
        is_there = torch.zeros(len(self.spans), *sizes, dtype=torch.bool)
        for place, span in enumerate(self.spans):
            to = layout.units[target][layout.span(target, *span)]
            at = layout.units[source][layout.span(source, *span)]
            rows[place, : len(to), 0], columns[place, 0, : len(at)] = to, at
            is_there[place, : len(to), : len(at)] = layout.triangle(source, target, *span)
        return rows, columns, is_there

    def lay_out(self, *weights: Tensor) -> list[Tensor]:
        """Return what units of each block give to each other, of each edge (blocks, out, in)."""
        found = []
        for weight, (rows, columns, is_there) in zip(weights, self.picks, strict=True):
            is_whole = len(self.spans) == 1 and weight.shape == is_there.shape[1:]
            picked = weight[None] if is_whole else weight[rows, columns]
            found.append(torch.where(is_there, picked, 0.0))
        return found

    @torch.no_grad()
    def draw(self, network: MaskedNetwork, noise: Tensor) -> Tensor:
        """Return the features (B, D) of noise (B, D, N)."""
        layout = self.layout
        weights = [weight.detach() for *_, weight in network.edges]
        whole = self._lay_out(*weights)
        within = list(zip(*(each.unbind(0) for each in whole), strict=True))
        edges: list[list[tuple[int, Tensor]]] = [[] for _ in range(layout.levels + 1)]
        for (source, target), weight in zip(self.edges, weights, strict=True):
            edges[target].append((source, layout.rearranged(weight, source, target)))
        biases = [
            None if bias is None else bias if is_sorted else bias[units.to(bias.device)]
            for bias, units, is_sorted in zip(
                network.biases, layout.units[1:], layout.is_sorted[1:], strict=True
            )
        ]

        B, D = noise.shape[:2]
        noise = F.pad(noise[:, self.order], (0, 0, 0, len(self.spans) * self.block - D))
        x, log_det = noise.new_zeros(B, D), noise.new_zeros(B)
        levels = [torch.zeros_like(x), *(noise.new_empty(B, H) for H in layout.hidden)]
        blocks = zip(self.spans, noise.split(self.block, dim=1), within, strict=True)
        for (first, last), mine, inner in blocks:
            known = []
            for target in range(1, layout.levels + 1):
                to, bias = layout.span(target, first, last), biases[target - 1]
                total = noise.new_zeros(to.stop - to.start) if bias is None else bias[to]
                for source, weight in edges[target]:
                    before = layout.start(source, first)
                    total = torch.addmm(total, levels[source][:, :before], weight[to, :before].T)
                known.append(F.pad(total, (0, self.widths[target] - total.shape[1])))

            found, slopes, *values = self._solve(mine, known, inner)
            x[:, self.order[first:last]] = found[:, : last - first]
            log_det += slopes
            for level, value in enumerate(values):
                to = layout.span(level, first, last)
                levels[level][:, to] = value[:, : to.stop - to.start]
        return x

    def solve(
        self, noise: Tensor, known: list[Tensor], inner: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return the features of a block, log |dx/dy|, and what the network sees and holds.

        Arguments:
            noise: (B, n, N).
            known: what units before the block give to the sums of each level.
            inner: what those of the block give to each other, of each edge.
        """
        L, step = len(self.layout.hidden), self.step

        def run(x: Tensor) -> tuple[list[Tensor], Tensor]:
            values, sums = [step.encode(x)], [x]
            for target in range(1, L + 2):
                z = known[target - 1]
                for (source, to), weight in zip(self.edges, inner, strict=True):
                    if to == target:
                        z = torch.addmm(z, values[source], weight.T)
                if target <= L:
                    skip = self.skips[target - 1]
                    z = z if skip == 0 else z + sums[skip]
                    sums.append(z)
                    values.append(self.activation(z))
            return values, z.unflatten(1, (self.block, self.layout.parameters))

        def goes_on(passes: Tensor, moves: Tensor, *rest: Tensor) -> Tensor:
            return moves & (passes <= self.block)

        def again(passes: Tensor, moves: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            values, parameters = run(x)
            found = step.make(parameters, noise)[0].to(x.dtype)
            new = found.nan_to_num(0.0, 0.0, 0.0)
            unit = 4 * torch.finfo(x.dtype).eps
            moves = ((new - x).abs() > unit * (1 + new.abs())).any()
            return passes + 1, moves, new, found, parameters.clone(), *values[1:]

        x = noise.new_zeros(noise.shape[:2])
        parameters = noise.new_zeros(*x.shape, self.layout.parameters)
        hidden = [torch.zeros_like(each) for each in known[:-1]]
        passes = torch.zeros((), dtype=torch.int64, device=x.device)
        moves = torch.ones((), dtype=torch.bool, device=x.device)
        start = passes, moves, x, x.clone(), parameters, *hidden
        _, _, x, found, parameters, *hidden = while_loop(goes_on, again, start)
        slopes = step.make(parameters, noise)[1] if step.is_flow else noise.new_zeros(len(x))
        return found, slopes, step.encode(x).clone(), *hidden
