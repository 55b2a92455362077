"""Triton kernels of `ddpm_step` and `ddim_step` and their launchers."""

from __future__ import annotations

import math
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


@triton.jit
def _schedule(t_ptr, s_ptr, alpha_ptr, sigma_ptr, t_stride, s_stride, strides, steps, row, samples):
    """Return alpha and sigma of steps t and s, and whether s is x0, each [BLOCK_S, 1]."""
    t = load_steps(t_ptr, t_stride, row, samples)
    s = t - 1
    if s_ptr is not None:
        s = load_steps(s_ptr, s_stride, row, samples)

    to_clean = s == -1
    alpha_t = look_up(alpha_ptr, strides[0], steps, t)
    sigma_t = look_up(sigma_ptr, strides[1], steps, t)
    alpha_s = tl.where(to_clean, 1.0, look_up(alpha_ptr, strides[0], steps, s))
    sigma_s = tl.where(to_clean, 0.0, look_up(sigma_ptr, strides[1], steps, s))
    return alpha_t, sigma_t, alpha_s, sigma_s, to_clean


@triton.jit
def _weights(
    alpha_t,
    sigma_t,
    alpha_s,
    sigma_s,
    to_clean,
    eta,
    rest,  # 1 - eta^2, which cancels in float32
    TARGET: tl.constexpr,
    LARGE: tl.constexpr,
    RECOMPUTE: tl.constexpr,
    CLIPS: tl.constexpr,
    DRAWS: tl.constexpr,
):
    """Return a, b, c, u, v and std of the samples, as the README derives them.

    Lemma. With root = alpha_t sigma_s / (alpha_s sigma_t) and fresh = 1 - root^2, all there is to
    subtract is alpha_s sigma_t - alpha_t sigma_s: products of two float32, exact in float64. What
    follows adds and multiplies what is positive, so every coefficient is within 38 u of its own.
    """
    whole = alpha_s.to(tl.float64) * sigma_t.to(tl.float64)
    part = alpha_t.to(tl.float64) * sigma_s.to(tl.float64)
    difference, total = (whole - part).to(tl.float32), (whole + part).to(tl.float32)
    whole = whole.to(tl.float32)
    alpha_t, sigma_t = alpha_t.to(tl.float32), sigma_t.to(tl.float32)
    alpha_s, sigma_s = alpha_s.to(tl.float32), sigma_s.to(tl.float32)

    # On the way to x0 no eps counts, not even where sigma_t is 0 and it cannot be known.
    divisor = tl.where(to_clean & (sigma_t == 0.0), 1.0, sigma_t)
    root = tl.where(to_clean, 0.0, tl.div_rn(part.to(tl.float32), whole))
    fresh = tl.div_rn(difference, whole) * tl.div_rn(total, whole)
    fresh = tl.where(to_clean, 1.0, fresh)
    # eta^2 root^2, and the share of sigma_s that is left to eps: sqrt(1 - eta^2 fresh).
    kept = eta * root * eta * root
    share = tl.sqrt_rn(rest + kept)
    gap = tl.div_rn(fresh * (1.0 + kept), 1.0 + share * root)  # 1 - share root
    direction = sigma_s * share

    square = alpha_t * alpha_t + sigma_t * sigma_t
    zero = tl.zeros_like(alpha_t)
    std = zero
    if DRAWS:
        scale = sigma_t if LARGE else sigma_s
        std = tl.where(to_clean, 0.0, eta * scale * tl.sqrt_rn(fresh))
    if TARGET == _NOISE:
        u, v = tl.div_rn(zero + 1.0, alpha_t), -tl.div_rn(sigma_t, alpha_t)
        eps_x, eps_p = zero, zero + 1.0
        a, b = tl.div_rn(alpha_s, alpha_t), -tl.div_rn(whole * gap, alpha_t)
    elif TARGET == _VELOCITY:
        u, v = tl.div_rn(alpha_t, square), -tl.div_rn(sigma_t, square)
        eps_x, eps_p = -v, u
        a, b = alpha_s * u + direction * eps_x, -tl.div_rn(whole * gap, square)
    else:
        u, v = zero, zero + 1.0
        eps_x, eps_p = tl.div_rn(zero + 1.0, divisor), -tl.div_rn(alpha_t, divisor)
        a, b = direction * eps_x, alpha_s * gap

    c = zero
    if CLIPS:
        if RECOMPUTE:
            a, b, c = tl.div_rn(direction, divisor), zero, alpha_s * gap
        else:
            a, b, c = direction * eps_x, direction * eps_p, alpha_s

    return a, b, c, u, v, std


@triton.jit
def _predicted(p_ptr, q_ptr, p_stride, q_stride, guidance, row, element, live):
    """Load the prediction, guided where there is an unconditional one."""
    p = load_values(p_ptr, p_stride, row, element, live)
    if q_ptr is not None:
        plain = load_values(q_ptr, q_stride, row, element, live)
        p = plain + guidance * (p - plain)
    return p


@triton.jit(do_not_specialize=["sample_offset", "stream", "eta", "rest", "clip", "guidance"])
def forward_kernel(
    x_t_ptr,  # (S, E)
    prediction_ptr,  # (S, E)
    unconditional_ptr,  # (S, E) or None
    noise_ptr,  # (S, E) or None
    seed_ptr,  # (), int64, or None
    t_ptr,  # (S,)
    s_ptr,  # (S,), or None for t - 1
    alpha_ptr,  # (T,)
    sigma_ptr,  # (T,)
    x_s_ptr,  # (S, E)
    x_t_stride: tl.int64,
    prediction_stride: tl.int64,
    unconditional_stride: tl.int64,
    noise_stride: tl.int64,
    t_stride: tl.int64,
    s_stride: tl.int64,
    alpha_stride: tl.int64,
    sigma_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    steps: tl.int64,
    sample_offset: tl.int64,
    stream: tl.uint32,
    eta: tl.float32,
    rest: tl.float32,
    clip: tl.float32,
    guidance: tl.float32,
    TARGET: tl.constexpr,
    LARGE: tl.constexpr,
    RECOMPUTE: tl.constexpr,
    CLIPS: tl.constexpr,
    DRAWS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, first, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    strides = (alpha_stride, sigma_stride)
    found = _schedule(
        t_ptr, s_ptr, alpha_ptr, sigma_ptr, t_stride, s_stride, strides, steps, row, samples
    )
    a, b, c, u, v, std = _weights(*found, eta, rest, TARGET, LARGE, RECOMPUTE, CLIPS, DRAWS)

    x_t = load_values(x_t_ptr, x_t_stride, row, element, live)  # [BLOCK_S, BLOCK_E]
    p = _predicted(
        prediction_ptr,
        unconditional_ptr,
        prediction_stride,
        unconditional_stride,
        guidance,
        row,
        element,
        live,
    )
    x_s = a * x_t + b * p
    if CLIPS:
        # A comparison with NaN is false, and then the NaN stays.
        x0 = u * x_t + v * p
        x0 = tl.where(x0 > clip, clip, x0)
        x_s += c * tl.where(x0 < -clip, -clip, x0)
    if DRAWS:
        x_s += std * load_or_draw_noise(
            noise_ptr, noise_stride, seed_ptr, sample_offset, stream, row, element, first, live
        )

    place = x_s_ptr + row * elements + element
    tl.store(place, x_s.to(x_s_ptr.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["eta", "rest", "clip", "guidance"])
def backward_kernel(
    grad_x_s_ptr,  # (S, E)
    x_t_ptr,  # (S, E)
    prediction_ptr,  # (S, E)
    unconditional_ptr,  # (S, E) or None
    t_ptr,  # (S,)
    s_ptr,  # (S,), or None for t - 1
    alpha_ptr,  # (T,)
    sigma_ptr,  # (T,)
    grad_x_t_ptr,  # (S, E) or None
    grad_prediction_ptr,  # (S, E) or None
    grad_unconditional_ptr,  # (S, E) or None
    grad_x_s_stride: tl.int64,
    x_t_stride: tl.int64,
    prediction_stride: tl.int64,
    unconditional_stride: tl.int64,
    t_stride: tl.int64,
    s_stride: tl.int64,
    alpha_stride: tl.int64,
    sigma_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    steps: tl.int64,
    eta: tl.float32,
    rest: tl.float32,
    clip: tl.float32,
    guidance: tl.float32,
    TARGET: tl.constexpr,
    LARGE: tl.constexpr,
    RECOMPUTE: tl.constexpr,
    CLIPS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, _, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    strides = (alpha_stride, sigma_stride)
    found = _schedule(
        t_ptr, s_ptr, alpha_ptr, sigma_ptr, t_stride, s_stride, strides, steps, row, samples
    )
    a, b, c, u, v, _ = _weights(*found, eta, rest, TARGET, LARGE, RECOMPUTE, CLIPS, False)

    grad = load_values(grad_x_s_ptr, grad_x_s_stride, row, element, live)  # [BLOCK_S, BLOCK_E]
    of_x, of_p = a * grad, b * grad
    if CLIPS:
        x_t = load_values(x_t_ptr, x_t_stride, row, element, live)
        p = _predicted(
            prediction_ptr,
            unconditional_ptr,
            prediction_stride,
            unconditional_stride,
            guidance,
            row,
            element,
            live,
        )
        # A clipped x0 depends on nothing.
        of_x0 = tl.where(tl.abs(u * x_t + v * p) <= clip, c * grad, 0.0)
        of_x += u * of_x0
        of_p += v * of_x0

    place = row * elements + element
    if grad_x_t_ptr is not None:
        tl.store(grad_x_t_ptr + place, of_x.to(grad_x_t_ptr.dtype.element_ty), mask=live)
    if grad_prediction_ptr is not None:
        dtype = grad_prediction_ptr.dtype.element_ty
        tl.store(grad_prediction_ptr + place, (guidance * of_p).to(dtype), mask=live)
    if grad_unconditional_ptr is not None:
        dtype = grad_unconditional_ptr.dtype.element_ty
        tl.store(grad_unconditional_ptr + place, ((1.0 - guidance) * of_p).to(dtype), mask=live)


def forward(
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    s: Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    target: int,
    eta: float,
    large: bool,
    recompute: bool,
    clip: float,
    guidance: float,
    sample_offset: int,
    stream: int,
) -> Tensor:
    """Compute x_s."""
    samples, elements = x_t.shape
    x_s = x_t.new_empty(samples, elements)
    if x_s.numel() == 0:
        return x_s

    given = (x_t, prediction, unconditional, noise)
    rows = [None if each is None else in_rows(each) for each in given]
    steps = (t, s, alpha, sigma)
    with torch.cuda.device_of(x_t):
        forward_kernel[(tiles(samples, elements),)](
            *rows,
            seed if noise is None else None,
            *steps,
            x_s,
            *(stride_of(each) for each in (*rows, *steps)),
            samples,
            elements,
            alpha.shape[0],
            sample_offset,
            stream,
            eta,
            1 - eta**2,
            clip,
            guidance,
            target,
            large,
            recompute,
            clip < math.inf,
            eta > 0,
            *tile_shape(elements),
        )

    return x_s


def backward(
    grad_x_s: Tensor,
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    t: Tensor,
    s: Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    target: int,
    eta: float,
    large: bool,
    recompute: bool,
    clip: float,
    guidance: float,
    sample_offset: int,
    stream: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of x_t and both predictions."""
    samples, elements = x_t.shape
    likes = (x_t, prediction, prediction if unconditional is None else unconditional)
    grads = tuple(
        like.new_empty(x_t.shape if need else (0, 0))
        for like, need in zip(likes, needs, strict=True)
    )
    if x_t.numel() == 0:
        return grads

    given = (grad_x_s, x_t, prediction, unconditional)
    rows = [None if each is None else in_rows(each) for each in given]
    steps = (t, s, alpha, sigma)
    with torch.cuda.device_of(x_t):
        backward_kernel[(tiles(samples, elements),)](
            *rows,
            *steps,
            *(grad if need else None for grad, need in zip(grads, needs, strict=True)),
            *(stride_of(each) for each in (*rows, *steps)),
            samples,
            elements,
            alpha.shape[0],
            eta,
            1 - eta**2,
            clip,
            guidance,
            target,
            large,
            recompute,
            clip < math.inf,
            *tile_shape(elements),
        )

    return grads


def _aot(name: str, kernel: triton.JITFunction, target: int, clips: bool, **more: str) -> AotKernel:
    constants = {"TARGET": target, "LARGE": False, "RECOMPUTE": True, "CLIPS": clips}
    constants |= {"DRAWS": "seed" in more, "BLOCK_S": 1, "BLOCK_E": TILE}
    schedule = {"t": "i64", "alpha": "fp32", "sigma": "fp32"}
    return aot_kernel(name, kernel, constants, **schedule, **more)


def _aot_of(dtype: str) -> list[AotKernel]:
    both = {"x_t": dtype, "prediction": dtype}
    guided = {**both, "unconditional": dtype, "s": "i64"}
    drawn = {"x_s": dtype, "seed": "i64"}
    grads = {f"grad_{each}": dtype for each in ("x_s", "x_t", "prediction")}
    return [
        _aot(f"ddpm-noise-{dtype}", forward_kernel, 0, True, **both, **drawn),
        _aot(f"ddpm-velocity-guided-{dtype}", forward_kernel, 1, True, **guided, **drawn),
        _aot(f"ddim-noise-{dtype}", forward_kernel, 0, False, **both, x_s=dtype, s="i64"),
        _aot(f"ddim-x0-guided-{dtype}", forward_kernel, 2, False, **guided, x_s=dtype),
        _aot(f"backward-{dtype}", backward_kernel, 1, True, **guided, **grads),
    ]


AOT_KERNELS = (*_aot_of("fp32"), *_aot_of("bf16"))
