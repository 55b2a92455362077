"""Launchers of the Triton kernels of `logistic_mixture_nll`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel
from dgm_fast.ops.logistic_mixture_nll.reference import component_count
from dgm_fast.ops.logistic_mixture_nll.triton_passes import (
    Planes,
    backward_kernel,
    forward_kernel,
)

# Pixels of a tile, and its warps: one or two pixels a thread, each with some fifty numbers.
_TILE, _WARPS = 256, 4


def forward(x: Tensor, params: Tensor) -> Tensor:
    """Return the negative log-likelihood of each sample."""
    samples, _, pixels = x.shape
    if x.numel() == 0:
        return x.new_zeros(samples)

    blocks = ceil_div(pixels, _tile(pixels)[1])
    sums = x.new_empty(samples, blocks)
    _launch(forward_kernel, x, params, _planes(x), _planes(params), sums)

    # One block is its sample's sum; more are added in their order.
    return sums.view(samples) if blocks == 1 else sums.sum(1)


def backward(grad: Tensor | None, x: Tensor, params: Tensor, needs: Sequence[bool]) -> Tensor:
    """Return the gradient of the parameters."""
    grads = params.new_empty(params.shape)
    if params.numel() > 0:
        planes = map(_planes, (x, params, grads))
        _launch(backward_kernel, x, params, grad, *planes, grad.stride(0))

    return grads


def _launch(kernel: triton.JITFunction, x: Tensor, params: Tensor, *arguments: Any) -> None:
    """Launch a kernel on tiles of x; its sizes and constants follow the arguments."""
    samples, channels, pixels = x.shape
    components = component_count(channels, params.shape[1])
    block_s, block_e = _tile(pixels)
    grid = (ceil_div(samples, block_s) * ceil_div(pixels, block_e),)
    with torch.cuda.device_of(x):
        kernel[grid](
            *arguments,
            samples,
            pixels,
            components,
            channels,
            block_s,
            block_e,
            num_warps=_WARPS,
        )


def _tile(pixels: int) -> tuple[int, int]:
    """Return samples and pixels of a tile: small samples share one."""
    block_e = min(_TILE, next_power_of_2(pixels))
    return _TILE // block_e, block_e


def _planes(t: Tensor) -> Planes:
    return Planes(t, *t.stride())


def _aot_kernels() -> Iterator[AotKernel]:
    for dtype, channels in (("fp32", 3), ("bf16", 3), ("fp16", 1)):
        x, params = (Planes(f"*{each}", "i32", "i32", 1) for each in ("fp32", dtype))
        arguments = {"x": x, "parameters": params, "grads": params, "sums_ptr": "*fp32"}
        arguments |= {"grad_ptr": "*fp32", "grad_stride": "i32"}
        arguments |= dict.fromkeys(("samples", "pixels", "components"), "i32")
        constants = {"CHANNELS": channels, "BLOCK_S": 1, "BLOCK_E": _TILE}

        for function in (forward_kernel, backward_kernel):
            signature = {key: v for key, v in arguments.items() if key in function.arg_names}
            config = triton.Config({}, num_warps=_WARPS)
            label = f"{function.__name__}-{channels}-{dtype}"
            yield AotKernel(label, function, signature, constants, lambda _, c=config: [c], False)


AOT_KERNELS = tuple(_aot_kernels())
