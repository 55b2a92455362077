"""A masked network a block of features at a time: solving for its input, and the transposed way.

An equation x_d = f(network(x_1 ... x_{d-1})) iterated with the whole network computes again and
again what is known. Here the features of a block are iterated alone and the blocks go in order:
what earlier units give to a block is computed once, a pass takes the block's own units only, and
the block is right after as many passes as it has features, mostly long before. All blocks together
multiply little more than one pass of the network. The transposed system goes from the last block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.families.autoregressive.masked_mlp import MaskedMLP

__all__ = ["BLOCK", "MaskedBlocks", "is_rounding"]

# Features. Small blocks are many, and in large ones more units take part in every pass: of 16, 32
# and 64 the last cost an IAF of 784 least.
BLOCK = 64


def is_rounding(change: Tensor, x: Tensor) -> bool:
    """Whether a pass changed x by no more than rounding does."""
    unit = 4 * torch.finfo(x.dtype).eps
    return bool((change.abs() <= unit * (1 + x.abs())).all())


class MaskedBlocks:
    """The blocks of a network, with its weights as they are now and without a graph.

    Arguments:
        network: the network.
        context: (B, C) or None.
    """

    @torch.no_grad()
    def __init__(self, network: MaskedMLP, context: Tensor | None) -> None:
        D = network.features
        self.weights = [layer.weight * layer.mask.mask for layer in network.layers]
        self.offsets = [layer.bias for layer in network.layers]
        if context is not None:
            fixed = self.weights[0][:, D:]
            self.offsets[0] = F.linear(context.to(fixed.dtype), fixed, self.offsets[0])

        starts = torch.arange(0, D + BLOCK, BLOCK).clamp(max=D)
        # Of each level, the features, hidden layers and outputs, how many units come before each
        # block: those that know none of its features.
        before = [torch.searchsorted(degrees, starts) for degrees in network.degrees]
        before = [starts, *before, starts * (self.weights[-1].shape[0] // D)]
        self.blocks = [
            [slice(int(each[i]), int(each[i + 1])) for each in before]
            for i in range(len(starts) - 1)
        ]

    @torch.no_grad()
    def solve(self, y: Tensor, invert: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Solve x = invert(y, network(x)), both (B, D).

        Arguments:
            y: (B, D).
            invert: elementwise, of n features (B, n) and their parameters (B, n, P).
        """
        levels = [torch.zeros_like(y)]
        levels += [y.new_zeros(len(y), weight.shape[0]) for weight in self.weights]
        x = levels[0]

        for spans in self.blocks:
            here, count = spans[0], spans[0].stop - spans[0].start
            steps = list(zip(self.weights, spans, spans[1:], strict=False))
            known = [
                torch.addmm(offset[..., to], level[:, : at.start], weight[to, : at.start].T)
                for (weight, at, to), offset, level in zip(
                    steps, self.offsets, levels, strict=False
                )
            ]
            # One pass more lets the hidden units see the last change.
            for _ in range(count + 1):
                h = x[:, here]
                for i, (weight, at, to) in enumerate(steps):
                    h = torch.addmm(known[i], h, weight[to, at].T)
                    if i < len(steps) - 1:
                        levels[i + 1][:, to] = h = h.relu()

                found = invert(y[:, here], h.unflatten(1, (count, -1))).nan_to_num(0.0, 0.0, 0.0)
                change = found - x[:, here]
                x[:, here] = found
                if is_rounding(change, found):
                    break
        return x

    @torch.no_grad()
    def solve_transposed(
        self, grad: Tensor, slopes: Tensor, by_parameters: Tensor, hidden: Sequence[Tensor]
    ) -> Tensor:
        """Solve J^T w = grad for J = diag(slopes) + by_parameters d network / dx, (B, D).

        Arguments:
            grad: (B, D).
            slopes: (B, D).
            by_parameters: (B, D, P).
            hidden: what the hidden layers hold at x, after the ReLU.
        """
        levels = [torch.zeros_like(grad), *(torch.zeros_like(h) for h in hidden)]
        levels.append(torch.zeros_like(by_parameters).flatten(1))
        w = levels[0]

        for spans in reversed(self.blocks):
            here, count = spans[0], spans[0].stop - spans[0].start
            steps = list(zip(self.weights, spans, spans[1:], strict=False))
            known = [
                level[:, to.stop :] @ weight[to.stop :, at]
                for (weight, at, to), level in zip(steps, levels[1:], strict=False)
            ]
            live = [h[:, at] > 0 for h, at in zip(hidden, spans[1:], strict=False)]
            for _ in range(count + 1):
                back = (w[:, here, None] * by_parameters[:, here]).flatten(1)
                levels[-1][:, spans[-1]] = back
                for i in reversed(range(len(steps))):
                    weight, at, to = steps[i]
                    back = torch.addmm(known[i], back, weight[to, at])
                    if i > 0:
                        levels[i][:, at] = back = back * live[i - 1]

                found = (grad[:, here] - back) / slopes[:, here]
                change = found - w[:, here]
                w[:, here] = found
                if is_rounding(change, found):
                    break
        return w
