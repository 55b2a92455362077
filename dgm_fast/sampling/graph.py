"""A step as a CUDA graph: its kernels are launched at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["StepGraph"]


class StepGraph:
    """A step, captured.

    Arguments:
        step: maps inputs to outputs; what else it reads or writes are always the same tensors, on
            which it is run once to warm up. After that it copies nothing from the host, a list of
            indices neither, and waits for no value.
        inputs: for which it is captured, as for any others of their shapes.
    """

    def __init__(self, step: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> None:
        self.inputs = [each.clone(memory_format=torch.contiguous_format) for each in inputs]
        with torch.cuda.device(inputs[0].device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = step(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, which the next call overwrites."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.outputs
