"""The forward and the backward pass of `gaussian_rsample_kl` as Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_math import exp, expm1_tail, reduce_by_ln2, times_power_of_two
from dgm_fast._core.triton_rows import load_or_draw_noise, load_values, tile_of


@triton.jit
def _load_element(pointers, strides, row, element, live):
    """Return a tile's mean and what z, kl and their gradients are made of.

    Read are mean, log_var, and prior_mean and prior_log_var where there is a prior.

    std = e^(log_var / 2), scale = 1 over the prior's, offset = (mean - prior_mean) scale, log_ratio
    = log_var - prior_log_var, ratio = e^(log_ratio / 2), growth = ratio - 1, excess = e^log_ratio
    - 1 - log_ratio.

    Lemma. Let b = log_ratio / 2 and e^b - 1 = b + rest: then growth = b + rest and excess =
    growth^2 + 2 rest. For small b rest is b^2 times a polynomial, so that nothing cancels, however
    close the Gaussians are. From |b| = 0.34 on, the 1 and b can be subtracted: growth loses a
    factor of at most 3.5, excess one of 7.
    """
    mean = load_values(pointers[0], strides[0], row, element, live)
    log_var = load_values(pointers[1], strides[1], row, element, live)
    b, n = reduce_by_ln2(0.5 * log_var)
    rest = b * b * expm1_tail(b)
    std = times_power_of_two(1.0 + (b + rest), n)

    if pointers[2] is not None:
        prior_mean = load_values(pointers[2], strides[2], row, element, live)
        prior_log_var = load_values(pointers[3], strides[3], row, element, live)
        scale = exp(-0.5 * prior_log_var)
        offset = (mean - prior_mean) * scale
        log_ratio = log_var - prior_log_var
        ratio = std * scale
        b = 0.5 * log_ratio
        rest = b * b * expm1_tail(b)
        near = tl.abs(b) <= 0.34
    else:
        # The exponential has done this sum already.
        scale = tl.full(mean.shape, 1.0, tl.float32)
        offset, log_ratio, ratio = mean, log_var, std
        near = n == 0

    growth = tl.where(near, b + rest, ratio - 1.0)
    excess = growth * growth + 2.0 * tl.where(near, rest, growth - 0.5 * log_ratio)
    return mean, std, scale, offset, log_ratio, ratio, growth, excess


@triton.jit(do_not_specialize=["sample_offset", "stream", "free_bits"])
def forward_kernel(
    mean_ptr,  # (S, E)
    log_var_ptr,  # (S, E)
    prior_mean_ptr,  # (S, E), all rows one where the stride is 0, or None
    prior_log_var_ptr,  # as prior_mean
    noise_ptr,  # (S, E) or None
    seed_ptr,  # (), int64, or None
    z_ptr,  # (S, E)
    kl_ptr,  # (pieces, S), float32
    mean_stride: tl.int64,
    log_var_stride: tl.int64,
    prior_mean_stride: tl.int64,
    prior_log_var_stride: tl.int64,
    noise_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    sample_offset: tl.int64,
    stream: tl.uint32,
    free_bits: tl.float32,
    MONTE_CARLO: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, element, first, live = tile_of(tl.program_id(0), samples, elements, BLOCK_S, BLOCK_E)
    mean, std, _, offset, log_ratio, _, growth, excess = _load_element(
        (mean_ptr, log_var_ptr, prior_mean_ptr, prior_log_var_ptr),
        (mean_stride, log_var_stride, prior_mean_stride, prior_log_var_stride),
        row,
        element,
        live,
    )  # [BLOCK_S, BLOCK_E]
    eps = load_or_draw_noise(
        noise_ptr, noise_stride, seed_ptr, sample_offset, stream, row, element, first, live
    )
    z = (mean + std * eps).to(z_ptr.dtype.element_ty)
    tl.store(z_ptr + row * elements + element, z, mask=live)

    if MONTE_CARLO:
        y = offset + growth * eps
        twice = y * (y + 2.0 * eps) - log_ratio
    else:
        # No excess is below 0, so that 0 bits leave all as they are; NaN stays.
        twice = excess + offset * offset
        twice = tl.where(twice < 2.0 * free_bits, 2.0 * free_bits, twice)

    kl = 0.5 * tl.sum(tl.where(live, twice, 0.0), axis=1, keep_dims=True)  # [BLOCK_S, 1]
    tl.store(kl_ptr + first // BLOCK_E * samples + row, kl, mask=row < samples)


@triton.jit
def _slopes(
    scale, offset, ratio, growth, excess, eps, grad_kl, free_bits, MONTE_CARLO: tl.constexpr
):
    """Return what kl gives to mean, log_var and prior_log_var; prior_mean gets less mean's."""
    if MONTE_CARLO:
        # (z - prior_mean) over the prior's standard deviation.
        to_mean = offset + ratio * eps
        to_log_var = to_mean * (ratio * eps) - 1.0
        to_prior = 1.0 - to_mean * to_mean
    else:
        below = excess + offset * offset < 2.0 * free_bits
        to_mean = tl.where(below, 0.0, offset)
        to_log_var = tl.where(below, 0.0, growth * (growth + 2.0))
        to_prior = -(to_log_var + tl.where(below, 0.0, offset * offset))

    half = 0.5 * grad_kl
    return grad_kl * to_mean * scale, half * to_log_var, half * to_prior


@triton.jit
def _store(ptr, place, live, value):
    """Store a gradient that is wanted."""
    if ptr is not None:
        tl.store(ptr + place, value.to(ptr.dtype.element_ty), mask=live)


@triton.jit
def _give(sums, ptr, place, live, value, SHARED: tl.constexpr):
    """Return `value` added to the sums of a row that all samples have; store that of others."""
    if SHARED:
        sums += tl.where(live, value, 0.0)
    else:
        _store(ptr, place, live, value)
    return sums


@triton.jit(do_not_specialize=["sample_offset", "stream", "free_bits", "steps"])
def backward_kernel(
    grad_z_ptr,  # (S, E) or None
    grad_kl_ptr,  # (S,) or None
    mean_ptr,  # (S, E), and all up to the seed as in the forward
    log_var_ptr,
    prior_mean_ptr,
    prior_log_var_ptr,
    noise_ptr,
    seed_ptr,  # None, as the noise, where no gradient has noise in it
    grad_mean_ptr,  # (S, E) or None
    grad_log_var_ptr,  # (S, E) or None
    grad_prior_mean_ptr,  # (S, E), where shared (parts, E) in float32, or None
    grad_prior_log_var_ptr,  # as grad_prior_mean
    grad_z_stride: tl.int64,
    grad_kl_stride: tl.int64,
    mean_stride: tl.int64,
    log_var_stride: tl.int64,
    prior_mean_stride: tl.int64,
    prior_log_var_stride: tl.int64,
    noise_stride: tl.int64,
    samples: tl.int64,
    elements: tl.int64,
    sample_offset: tl.int64,
    stream: tl.uint32,
    free_bits: tl.float32,
    steps: tl.int64,  # tiles of samples in a part
    MONTE_CARLO: tl.constexpr,
    SHARED_MEAN: tl.constexpr,
    SHARED_LOG_VAR: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    blocks = tl.cdiv(elements, BLOCK_E)
    part, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    sums_mean = tl.zeros((BLOCK_S, BLOCK_E), tl.float32)
    sums_log_var = tl.zeros((BLOCK_S, BLOCK_E), tl.float32)

    for step in range(steps):
        tile = (part * steps + step) * blocks + block
        row, element, first, live = tile_of(tile, samples, elements, BLOCK_S, BLOCK_E)
        _, std, scale, offset, _, ratio, growth, excess = _load_element(
            (mean_ptr, log_var_ptr, prior_mean_ptr, prior_log_var_ptr),
            (mean_stride, log_var_stride, prior_mean_stride, prior_log_var_stride),
            row,
            element,
            live,
        )  # [BLOCK_S, BLOCK_E]
        zeros = tl.zeros((BLOCK_S, BLOCK_E), tl.float32)
        eps, to_mean, to_log_var, to_prior = zeros, zeros, zeros, zeros
        if noise_ptr is not None or seed_ptr is not None:
            eps = load_or_draw_noise(
                noise_ptr, noise_stride, seed_ptr, sample_offset, stream, row, element, first, live
            )

        if grad_kl_ptr is not None:
            grad_kl = tl.load(grad_kl_ptr + row * grad_kl_stride, mask=row < samples, other=0.0)
            to_mean, to_log_var, to_prior = _slopes(
                scale, offset, ratio, growth, excess, eps, grad_kl, free_bits, MONTE_CARLO
            )
        place = row * elements + element
        sums_mean = _give(sums_mean, grad_prior_mean_ptr, place, live, -to_mean, SHARED_MEAN)
        sums_log_var = _give(
            sums_log_var, grad_prior_log_var_ptr, place, live, to_prior, SHARED_LOG_VAR
        )

        if grad_z_ptr is not None:
            grad_z = load_values(grad_z_ptr, grad_z_stride, row, element, live)
            to_mean += grad_z
            to_log_var += 0.5 * (grad_z * (std * eps))
        _store(grad_mean_ptr, place, live, to_mean)
        _store(grad_log_var_ptr, place, live, to_log_var)

    column = block * BLOCK_E + tl.arange(0, BLOCK_E)
    place, live = part.to(tl.int64) * elements + column, column < elements
    if SHARED_MEAN:
        tl.store(grad_prior_mean_ptr + place, tl.sum(sums_mean, axis=0), mask=live)
    if SHARED_LOG_VAR:
        tl.store(grad_prior_log_var_ptr + place, tl.sum(sums_log_var, axis=0), mask=live)


@triton.jit
def add_parts_kernel(
    parts_ptr,  # (P, N), float32
    out_ptr,  # (N,)
    parts: tl.int64,
    size: tl.int64,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    column = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    sums = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for start in range(0, parts, BLOCK_P):
        part = start + tl.arange(0, BLOCK_P)[:, None]
        live = (part < parts) & (column < size)
        sums += tl.load(parts_ptr + part * size + column, mask=live, other=0.0)

    total = tl.sum(sums, axis=0, keep_dims=True).to(out_ptr.dtype.element_ty)  # [1, BLOCK_N]
    tl.store(out_ptr + column, total, mask=column < size)
