"""Triton kernels of `diffusion_noise` and their launchers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.schedule import TARGETS
from dgm_fast._core.triton_compile import AotKernel
from dgm_fast._core.triton_rows import (
    TILE,
    aot_kernel,
    in_rows,
    load_or_draw_noise,
    load_values,
    stride_of,
    tile_of,
    tile_shape,
    tiles,
)
from dgm_fast._core.triton_schedule import load_steps, look_up

_NOISE, _VELOCITY, _X0 = (tl.constexpr(place) for place in range(len(TARGETS)))
_NOTHING = len(TARGETS)


@triton.jit(do_not_specialize=["sample_offset", "stream"])
def forward_kernel(
    x0_ptr,  # (S, E), uint8 too
    noise_ptr,  # (S, E) or None
    seed_ptr,  # (), int64, or None
    t_ptr,  # (S,)
    alpha_ptr,  # (T,)
    sigma_ptr,  # (T,)
    x_t_ptr,  # (S, E)
    made_ptr,  # (S, E) or None
    x0_stride: tl.int64,
    noise_stride: tl.int64,
    t_stride: tl.int64,
    alpha_stride: tl.int64,
    sigma_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    steps: tl.int64,
    sample_offset: tl.int64,
    stream: tl.uint32,
    TARGET: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, first, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    step = load_steps(t_ptr, t_stride, row, samples)
    alpha = look_up(alpha_ptr, alpha_stride, steps, step).to(tl.float32)  # [BLOCK_S, 1]
    sigma = look_up(sigma_ptr, sigma_stride, steps, step).to(tl.float32)

    x0 = load_values(x0_ptr, x0_stride, row, element, live)  # [BLOCK_S, BLOCK_E]
    eps = load_or_draw_noise(
        noise_ptr, noise_stride, seed_ptr, sample_offset, stream, row, element, first, live
    )

    place = row * elements + element
    x_t = alpha * x0 + sigma * eps
    tl.store(x_t_ptr + place, x_t.to(x_t_ptr.dtype.element_ty), mask=live)
    if made_ptr is not None:
        made = x0
        if TARGET == _NOISE:
            made = eps
        if TARGET == _VELOCITY:
            made = alpha * eps - sigma * x0
        tl.store(made_ptr + place, made.to(made_ptr.dtype.element_ty), mask=live)


@triton.jit
def backward_kernel(
    grad_x_t_ptr,  # (S, E) or None
    grad_target_ptr,  # (S, E) or None
    t_ptr,  # (S,)
    alpha_ptr,  # (T,)
    sigma_ptr,  # (T,)
    grad_x0_ptr,  # (S, E)
    grad_x_t_stride: tl.int64,
    grad_target_stride: tl.int64,
    t_stride: tl.int64,
    alpha_stride: tl.int64,
    sigma_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    steps: tl.int64,
    TARGET: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, _, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    step = load_steps(t_ptr, t_stride, row, samples)
    grad = tl.zeros((BLOCK_S, BLOCK_E), tl.float32)

    if grad_x_t_ptr is not None:
        alpha = look_up(alpha_ptr, alpha_stride, steps, step).to(tl.float32)
        grad += alpha * load_values(grad_x_t_ptr, grad_x_t_stride, row, element, live)
    if grad_target_ptr is not None:
        of_target = load_values(grad_target_ptr, grad_target_stride, row, element, live)
        if TARGET == _VELOCITY:
            sigma = look_up(sigma_ptr, sigma_stride, steps, step).to(tl.float32)
            of_target = -sigma * of_target
        grad += of_target

    place = grad_x0_ptr + row * elements + element
    tl.store(place, grad.to(grad_x0_ptr.dtype.element_ty), mask=live)


def forward(
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: int,
    sample_offset: int,
    stream: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Compute x_t and, where one is asked for, the target."""
    x0, noise = in_rows(x0), None if noise is None else in_rows(noise)
    samples, elements = x0.shape
    x_t = x0.new_empty(samples, elements, dtype=dtype)
    made = x0.new_empty((0,) if target == _NOTHING else x_t.shape, dtype=dtype)
    if x_t.numel() == 0:
        return x_t, made

    with torch.cuda.device_of(x0):
        forward_kernel[(tiles(samples, elements),)](
            x0,
            noise,
            seed if noise is None else None,
            t,
            alpha,
            sigma,
            x_t,
            None if target == _NOTHING else made,
            x0.stride(0),
            stride_of(noise),
            t.stride(0),
            alpha.stride(0),
            sigma.stride(0),
            samples,
            elements,
            alpha.shape[0],
            sample_offset,
            stream,
            target,
            *tile_shape(elements),
        )

    return x_t, made


def backward(
    grad_x_t: Tensor | None,
    grad_target: Tensor | None,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: int,
    sample_offset: int,
    stream: int,
    dtype: torch.dtype,
    needs: Sequence[bool],
) -> Tensor:
    """Compute the gradient of x0."""
    samples, elements = x0.shape
    grad_x0 = x0.new_empty(samples, elements)
    if grad_x0.numel() == 0:
        return grad_x0

    # A target of noise holds nothing of x0, and an absent one is empty.
    if target in (_NOISE.value, _NOTHING):
        grad_target = None
    grad_x_t, grad_target = (None if g is None else in_rows(g) for g in (grad_x_t, grad_target))
    with torch.cuda.device_of(x0):
        backward_kernel[(tiles(samples, elements),)](
            grad_x_t,
            grad_target,
            t,
            alpha,
            sigma,
            grad_x0,
            stride_of(grad_x_t),
            stride_of(grad_target),
            t.stride(0),
            alpha.stride(0),
            sigma.stride(0),
            samples,
            elements,
            alpha.shape[0],
            target,
            *tile_shape(elements),
        )

    return grad_x0


_SCHEDULE = {"t": "i64", "alpha": "fp32", "sigma": "fp32"}


def _aot(name: str, kernel: triton.JITFunction, target: int, **pointers: str) -> AotKernel:
    constants = {"TARGET": target, "BLOCK_S": 1, "BLOCK_E": TILE}
    return aot_kernel(name, kernel, constants, **_SCHEDULE, **pointers)


def _aot_of(dtype: str) -> list[AotKernel]:
    drawn = {"seed": "i64", "x_t": dtype, "made": dtype}
    gradients = {f"grad_{each}": dtype for each in ("x_t", "target", "x0")}
    return [
        _aot(f"forward-noise-{dtype}", forward_kernel, 0, x0=dtype, **drawn),
        _aot(f"forward-velocity-{dtype}", forward_kernel, 1, x0=dtype, **drawn),
        _aot(f"forward-bytes-{dtype}", forward_kernel, 1, x0="u8", **drawn),
        _aot(f"forward-given-{dtype}", forward_kernel, _NOTHING, x0=dtype, noise=dtype, x_t=dtype),
        _aot(f"backward-{dtype}", backward_kernel, 1, **gradients),
    ]


AOT_KERNELS = (
    *_aot_of("fp32"),
    *_aot_of("bf16"),
    _aot(
        "forward-velocity-fp16", forward_kernel, 1, x0="fp16", seed="i64", x_t="fp16", made="fp16"
    ),
)
