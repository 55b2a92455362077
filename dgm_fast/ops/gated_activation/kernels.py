"""Triton kernels of `gated_activation` and their launchers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.triton_compile import AotKernel
from dgm_fast._core.triton_math import gate_gradients, sigmoid, tanh
from dgm_fast._core.triton_rows import (
    TILE,
    aot_kernel,
    in_rows,
    load_values,
    tile_of,
    tile_shape,
    tiles,
)


@triton.jit
def forward_kernel(
    x_ptr,  # (S, 2 E)
    y_ptr,  # (S, E)
    x_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, _, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    a = load_values(x_ptr, x_stride, row, element, live)  # [BLOCK_S, BLOCK_E]
    b = load_values(x_ptr, x_stride, row, elements + element, live)

    y = tanh(a) * sigmoid(b)
    tl.store(y_ptr + row * elements + element, y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def backward_kernel(
    grad_y_ptr,  # (S, E)
    x_ptr,  # (S, 2 E)
    grad_x_ptr,  # (S, 2 E)
    grad_y_stride: tl.int64,
    x_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, _, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    grad = load_values(grad_y_ptr, grad_y_stride, row, element, live)  # [BLOCK_S, BLOCK_E]
    a = load_values(x_ptr, x_stride, row, element, live)
    b = load_values(x_ptr, x_stride, row, elements + element, live)
    grad_a, grad_b = gate_gradients(grad, a, b)

    place = grad_x_ptr + row * (2 * elements) + element
    tl.store(place, grad_a.to(grad_x_ptr.dtype.element_ty), mask=live)
    tl.store(place + elements, grad_b.to(grad_x_ptr.dtype.element_ty), mask=live)


def forward(x: Tensor) -> Tensor:
    """Gate the first half of each row by the second."""
    x = in_rows(x)
    samples, elements = x.shape[0], x.shape[1] // 2
    y = x.new_empty(samples, elements)
    if y.numel() == 0:
        return y

    with torch.cuda.device_of(x):
        forward_kernel[(tiles(samples, elements),)](
            x, y, x.stride(0), samples, elements, *tile_shape(elements)
        )

    return y


def backward(grad_y: Tensor, x: Tensor, needs: Sequence[bool]) -> Tensor:
    """Compute the gradient of x."""
    grad_y, x = in_rows(grad_y), in_rows(x)
    samples, elements = grad_y.shape
    grad_x = x.new_empty(samples, 2 * elements)
    if grad_x.numel() == 0:
        return grad_x

    with torch.cuda.device_of(x):
        backward_kernel[(tiles(samples, elements),)](
            grad_y,
            x,
            grad_x,
            grad_y.stride(0),
            x.stride(0),
            samples,
            elements,
            *tile_shape(elements),
        )

    return grad_x


def _aot(dtype: str) -> list[AotKernel]:
    constants = {"BLOCK_S": 1, "BLOCK_E": TILE}
    gradients = {"grad_y": dtype, "grad_x": dtype}
    return [
        aot_kernel(f"forward-{dtype}", forward_kernel, constants, x=dtype, y=dtype),
        aot_kernel(f"backward-{dtype}", backward_kernel, constants, x=dtype, **gradients),
    ]


AOT_KERNELS = (*_aot("fp32"), *_aot("bf16"), *_aot("fp16"))
