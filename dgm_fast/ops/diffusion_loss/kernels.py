"""Triton kernels of `diffusion_loss` and their launchers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div
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

# Sums of pieces that one program adds up at a time.
_PIECES = tl.constexpr(256)


@triton.jit
def _error(
    prediction_ptr,
    x0_ptr,
    noise_ptr,
    seed_ptr,
    alpha_ptr,
    sigma_ptr,
    prediction_stride,
    x0_stride,
    noise_stride,
    alpha_stride,
    sigma_stride,
    steps,
    step,
    sample_offset,
    stream,
    row,
    element,
    first,
    live,
    TARGET: tl.constexpr,
):
    """Return prediction - target of a tile, and sigma of its samples where the target has it."""
    error = load_values(prediction_ptr, prediction_stride, row, element, live)
    sigma = tl.zeros_like(step).to(tl.float32)
    if TARGET == _X0:
        error -= load_values(x0_ptr, x0_stride, row, element, live)
    else:
        eps = load_or_draw_noise(
            noise_ptr, noise_stride, seed_ptr, sample_offset, stream, row, element, first, live
        )
        if TARGET == _VELOCITY:
            alpha = look_up(alpha_ptr, alpha_stride, steps, step).to(tl.float32)
            sigma = look_up(sigma_ptr, sigma_stride, steps, step).to(tl.float32)
            x0 = load_values(x0_ptr, x0_stride, row, element, live)
            error -= alpha * eps - sigma * x0
        else:
            error -= eps

    return error, sigma


@triton.jit
def _weigh(total, weight_ptr, weight_stride, steps, step, elements):
    """Turn sums over samples [BLOCK_S, 1] into weighted means."""
    mean = tl.div_rn(total, elements.to(tl.float32))
    if weight_ptr is not None:
        mean = look_up(weight_ptr, weight_stride, steps, step).to(tl.float32) * mean
    return mean


@triton.jit(do_not_specialize=["sample_offset", "stream"])
def forward_kernel(
    prediction_ptr,  # (S, E)
    x0_ptr,  # (S, E), uint8 too
    noise_ptr,  # (S, E) or None
    seed_ptr,  # (), int64, or None
    t_ptr,  # (S,)
    alpha_ptr,  # (T,)
    sigma_ptr,  # (T,)
    weight_ptr,  # (T,) or None
    out_ptr,  # (S, pieces): the loss where there is one piece, else sums
    prediction_stride: tl.int64,
    x0_stride: tl.int64,
    noise_stride: tl.int64,
    t_stride: tl.int64,
    alpha_stride: tl.int64,
    sigma_stride: tl.int64,
    weight_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    steps: tl.int64,
    sample_offset: tl.int64,
    stream: tl.uint32,
    TARGET: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ONE_PIECE: tl.constexpr,
):
    row, element, first, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    step = load_steps(t_ptr, t_stride, row, samples)
    error, _ = _error(
        prediction_ptr,
        x0_ptr,
        noise_ptr,
        seed_ptr,
        alpha_ptr,
        sigma_ptr,
        prediction_stride,
        x0_stride,
        noise_stride,
        alpha_stride,
        sigma_stride,
        steps,
        step,
        sample_offset,
        stream,
        row,
        element,
        first,
        live,
        TARGET,
    )

    total = tl.sum(tl.where(live, error * error, 0.0), axis=1, keep_dims=True)  # [BLOCK_S, 1]
    if ONE_PIECE:
        total = _weigh(total, weight_ptr, weight_stride, steps, step, elements)
    pieces = tl.cdiv(elements, BLOCK_E)
    tl.store(out_ptr + row * pieces + first // BLOCK_E, total, mask=row < samples)


@triton.jit
def finish_kernel(
    sums_ptr,  # (S, pieces)
    t_ptr,  # (S,)
    weight_ptr,  # (T,) or None
    loss_ptr,  # (S,)
    t_stride: tl.int64,
    weight_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    steps: tl.int64,
    pieces: tl.int64,
):
    row = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1), tl.int64)
    piece = tl.arange(0, _PIECES)[None, :]
    total = tl.zeros((1, _PIECES), tl.float32)
    for start in range(0, pieces, _PIECES):
        live = start + piece < pieces
        total += tl.load(sums_ptr + row * pieces + start + piece, mask=live, other=0.0)

    step = load_steps(t_ptr, t_stride, row, samples)
    total = tl.sum(total, axis=1, keep_dims=True)
    loss = _weigh(total, weight_ptr, weight_stride, steps, step, elements)
    tl.store(loss_ptr + row, loss)


@triton.jit(do_not_specialize=["sample_offset", "stream"])
def backward_kernel(
    grad_loss_ptr,  # (S,)
    prediction_ptr,  # (S, E)
    x0_ptr,  # (S, E), uint8 too
    noise_ptr,  # (S, E) or None
    seed_ptr,  # (), int64, or None
    t_ptr,  # (S,)
    alpha_ptr,  # (T,)
    sigma_ptr,  # (T,)
    weight_ptr,  # (T,) or None
    grad_prediction_ptr,  # (S, E) or None
    grad_x0_ptr,  # (S, E) or None
    grad_loss_stride: tl.int64,
    prediction_stride: tl.int64,
    x0_stride: tl.int64,
    noise_stride: tl.int64,
    t_stride: tl.int64,
    alpha_stride: tl.int64,
    sigma_stride: tl.int64,
    weight_stride: tl.int64,
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
    error, sigma = _error(
        prediction_ptr,
        x0_ptr,
        noise_ptr,
        seed_ptr,
        alpha_ptr,
        sigma_ptr,
        prediction_stride,
        x0_stride,
        noise_stride,
        alpha_stride,
        sigma_stride,
        steps,
        step,
        sample_offset,
        stream,
        row,
        element,
        first,
        live,
        TARGET,
    )

    grad_loss = tl.load(grad_loss_ptr + row * grad_loss_stride, mask=row < samples, other=0.0)
    share = _weigh(2.0 * grad_loss, weight_ptr, weight_stride, steps, step, elements)
    grad = share * error
    place = row * elements + element
    if grad_prediction_ptr is not None:
        dtype = grad_prediction_ptr.dtype.element_ty
        tl.store(grad_prediction_ptr + place, grad.to(dtype), mask=live)
    if grad_x0_ptr is not None:
        # The derivative of the error by x0.
        slope = sigma if TARGET == _VELOCITY else sigma - 1.0
        dtype = grad_x0_ptr.dtype.element_ty
        tl.store(grad_x0_ptr + place, (slope * grad).to(dtype), mask=live)


def forward(
    prediction: Tensor,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weight: Tensor | None,
    target: int,
    sample_offset: int,
    stream: int,
) -> Tensor:
    """Compute each sample's loss."""
    tensors = _in_rows(prediction, x0, noise, seed)
    samples, elements = x0.shape
    if x0.numel() == 0:
        return prediction.new_full((samples,), torch.nan, dtype=torch.float32)

    block_s, block_e = tile_shape(elements)
    pieces = ceil_div(elements, block_e)
    sums = prediction.new_empty((samples, pieces), dtype=torch.float32)
    strides = [stride_of(each) for each in (*tensors[:3], t, alpha, sigma, weight)]
    sizes = (samples, elements, alpha.shape[0])
    with torch.cuda.device_of(x0):
        forward_kernel[(tiles(samples, elements),)](
            *tensors,
            t,
            alpha,
            sigma,
            weight,
            sums,
            *strides,
            *sizes,
            sample_offset,
            stream,
            target,
            block_s,
            block_e,
            pieces == 1,
        )
        if pieces == 1:
            return sums.view(samples)

        loss = sums.new_empty(samples)
        finish_kernel[(samples,)](
            sums, t, weight, loss, t.stride(0), stride_of(weight), *sizes, pieces
        )

    return loss


def backward(
    grad_loss: Tensor,
    prediction: Tensor,
    x0: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weight: Tensor | None,
    target: int,
    sample_offset: int,
    stream: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of prediction and x0."""
    tensors = _in_rows(prediction, x0, noise, seed)
    samples, elements = x0.shape
    grads = [
        like.new_empty(x0.shape if need else (0, 0))
        for like, need in zip((prediction, x0), needs, strict=True)
    ]
    if x0.numel() == 0:
        return tuple(grads)

    strides = [stride_of(each) for each in (grad_loss, *tensors[:3], t, alpha, sigma, weight)]
    with torch.cuda.device_of(x0):
        backward_kernel[(tiles(samples, elements),)](
            grad_loss,
            *tensors,
            t,
            alpha,
            sigma,
            weight,
            *(grad if need else None for grad, need in zip(grads, needs, strict=True)),
            *strides,
            samples,
            elements,
            alpha.shape[0],
            sample_offset,
            stream,
            target,
            *tile_shape(elements),
        )

    return tuple(grads)


def _in_rows(
    prediction: Tensor, x0: Tensor, noise: Tensor | None, seed: Tensor | None
) -> tuple[Tensor | None, ...]:
    given = noise is not None
    rows = (in_rows(prediction), in_rows(x0), in_rows(noise) if given else None)
    return (*rows, None if given else seed)


def _aot(name: str, kernel: triton.JITFunction, target: int, **pointers: str) -> AotKernel:
    constants = {"TARGET": target, "BLOCK_S": 1, "BLOCK_E": TILE, "ONE_PIECE": False}
    tables = {"t": "i64", "alpha": "fp32", "sigma": "fp32", "weight": "fp32"}
    return aot_kernel(name, kernel, constants, **tables, **pointers)


def _aot_of(dtype: str) -> list[AotKernel]:
    drawn: dict[str, Any] = {"prediction": dtype, "seed": "i64"}
    grads = {"grad_loss": "fp32", "grad_prediction": dtype}
    return [
        _aot(f"forward-noise-{dtype}", forward_kernel, 0, x0=dtype, out="fp32", **drawn),
        _aot(f"forward-velocity-{dtype}", forward_kernel, 1, x0=dtype, out="fp32", **drawn),
        _aot(f"backward-noise-{dtype}", backward_kernel, 0, x0=dtype, **drawn, **grads),
        _aot(
            f"backward-velocity-{dtype}",
            backward_kernel,
            1,
            x0=dtype,
            grad_x0=dtype,
            **drawn,
            **grads,
        ),
    ]


AOT_KERNELS = (
    *_aot_of("fp32"),
    *_aot_of("bf16"),
    _aot("forward-bytes", forward_kernel, 1, prediction="bf16", x0="u8", seed="i64", out="fp32"),
    _aot("finish", finish_kernel, 0, sums="fp32", loss="fp32"),
)
