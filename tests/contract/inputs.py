"""Make, copy, convert and differentiate an op's inputs."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dgm_fast._core.cases import Inputs, OpCase

_M_PERTURB = -6  # <malloc.h>
_FILL_WITH_0X7F = 0x80  # glibc fills with the complement; 0x7f7f7f7f is 3.4e38 as a float32


def make(case: OpCase, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Make a case's inputs, the same numbers in every process, with leaves that require grad."""
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    inputs = case.make(device, dtype, generator)

    for leaf in case.leaves(inputs):
        leaf.requires_grad_()

    return inputs


def converted(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Apply `change` to every floating tensor, keep what requires grad, and ask for float64."""

    def convert(value):
        if isinstance(value, torch.dtype):
            return torch.float64
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return change(value.detach().double()).clone().requires_grad_(value.requires_grad)

    return {name: convert(value) for name, value in inputs.items()}


def whole_numbers(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw from -4 to 4: their products and sums are exact in float32, in whatever order."""
    return torch.randint(-4, 5, shape, generator=generator).float()


def in_float64(inputs: Inputs) -> Inputs:
    """Return the same values in float64."""
    return converted(inputs, lambda value: value)


def absolute(inputs: Inputs) -> Inputs:
    """Return the absolute values in float64."""
    return converted(inputs, torch.abs)


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """Return inputs made on the CPU on another device."""

    def move(value):
        if isinstance(value, torch.device):
            return device
        if isinstance(value, torch.nn.Module):
            return copy.deepcopy(value).to(device)
        return value.detach().to(device) if isinstance(value, Tensor) else value

    return {name: move(value) for name, value in inputs.items()}


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return an op's outputs as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def snapshot(inputs: Inputs) -> dict[str, Tensor]:
    """Copy the tensors among the inputs, those inside modules too."""
    copies = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            copies[name] = value.detach().clone()
        elif isinstance(value, torch.nn.Module):
            copies |= {f"{name}.{key}": each.clone() for key, each in value.named_buffers()}

    return copies


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill memory with NaN, or with huge numbers, when it is handed out.

    torch fills what `empty` returns, to Python and to C++ alike; glibc fills what kernels allocate
    for themselves, where glibc is.
    """
    libc = ctypes.CDLL(None)
    perturb = getattr(libc, "mallopt", lambda option, value: 0)
    deterministic = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    perturb(_M_PERTURB, _FILL_WITH_0X7F)
    try:
        yield
    finally:
        perturb(_M_PERTURB, 0)
        torch.utils.deterministic.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(deterministic)
