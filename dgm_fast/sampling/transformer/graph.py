"""A step as a CUDA graph: its kernels are launched at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast.sampling.transformer.passes import Cache

__all__ = ["StepGraph"]


class StepGraph:
    """A step on one cache, captured.

    Arguments:
        step: maps a token (B,), a place () and a cache to parameters, always the same tensors.
        token: for which it is captured, as for any other.
        place: likewise.
        cache: on which it is.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Tensor, Cache], Tensor],
        token: Tensor,
        place: Tensor,
        cache: Cache,
    ) -> None:
        self.token, self.place = token.clone(), place.clone()
        # What the warm-up writes, the step proper writes again.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(self.token, self.place, cache)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.parameters = step(self.token, self.place, cache)

    def __call__(self, token: Tensor, place: Tensor) -> Tensor:
        """Return the parameters (B, P), which the next call overwrites."""
        self.token.copy_(token)
        self.place.copy_(place)
        self.graph.replay()
        return self.parameters
