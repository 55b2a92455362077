"""The matrix from its parameters, and their gradients from its own, as Triton kernels.

W = P L (U + D) of C x C numbers, once a call; row i of W is row `permutation[i]` of the rest.
Matrices are contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_math import exp


@triton.jit
def _load_lower(lower_ptr, row, column, channels):
    """Load L, its unit diagonal too, at any rows and columns; zeros beyond them."""
    live = (row < channels) & (column < row)
    values = tl.load(lower_ptr + row * channels + column, mask=live, other=0.0)
    return tl.where((row == column) & (row < channels), 1.0, values)


@triton.jit
def _load_upper(upper_ptr, log_diag_ptr, sign_ptr, row, column, channels):
    """Load U + D at any rows and columns; zeros beyond them."""
    live = (column < channels) & (row < column)
    values = tl.load(upper_ptr + row * channels + column, mask=live, other=0.0)
    there = (row < channels) & (row == column)
    # What is zero apart from the diagonal makes it a sum.
    log_diag = tl.load(log_diag_ptr + row, mask=row < channels, other=0.0)
    diagonal = tl.load(sign_ptr + row, mask=row < channels, other=0.0) * exp(log_diag)
    return tl.where(there, diagonal, values)


@triton.jit
def fold_kernel(
    matrix_ptr,  # (C, C): the lower triangle, or W where there is no permutation
    log_diag_ptr,  # (C,), as are the next two, or None without a permutation
    upper_ptr,  # (C, C)
    sign_ptr,
    permutation_ptr,
    log_scale_ptr,  # (C,), or None, as is the next
    shift_ptr,
    folded_ptr,  # (C, C): W e^log_scale
    bias_ptr,  # (C,): that times the shift
    channels,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    row = i
    if permutation_ptr is not None:
        row = tl.load(permutation_ptr + i, mask=i < channels, other=0).to(tl.int32)

    sums = tl.zeros((BLOCK, BLOCK), tl.float32)
    for first in range(0, channels, BLOCK):
        j = first + tl.arange(0, BLOCK)[None, :]
        live = (i < channels) & (j < channels)  # [BLOCK, BLOCK]
        if permutation_ptr is None:
            weight = tl.load(matrix_ptr + i * channels + j, mask=live, other=0.0)
        else:
            weight = tl.zeros((BLOCK, BLOCK), tl.float32)
            # U ends at the diagonal.
            for first_k in range(0, first + BLOCK, BLOCK):
                k = first_k + tl.arange(0, BLOCK)
                lower = _load_lower(matrix_ptr, row, k[None, :], channels)
                upper = _load_upper(upper_ptr, log_diag_ptr, sign_ptr, k[:, None], j, channels)
                weight = tl.dot(lower, upper, weight, input_precision="ieee")

        if log_scale_ptr is not None:
            weight *= exp(tl.load(log_scale_ptr + j, mask=j < channels, other=0.0))
        if shift_ptr is not None:
            sums += weight * tl.load(shift_ptr + j, mask=j < channels, other=0.0)
        tl.store(folded_ptr + i * channels + j, weight, mask=live)

    tl.store(bias_ptr + i, tl.sum(sums, axis=1, keep_dims=True), mask=i < channels)


@triton.jit
def log_det_kernel(
    log_diag_ptr,  # (N,): of factors, or one log-determinant
    log_scale_ptr,  # (C,), or None
    log_det_ptr,  # (B,)
    samples,
    count,  # N
    channels,
    pixels,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Multiplied by the pixels, and so in float64.
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, count, BLOCK):
        c = first + tl.arange(0, BLOCK)
        total += tl.load(log_diag_ptr + c, mask=c < count, other=0.0).to(tl.float64)
    if log_scale_ptr is not None:
        for first in range(0, channels, BLOCK):
            c = first + tl.arange(0, BLOCK)
            total += tl.load(log_scale_ptr + c, mask=c < channels, other=0.0).to(tl.float64)

    value = (tl.sum(total) * pixels).to(tl.float32)
    sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.zeros((BLOCK,), tl.float32) + (-value if INVERSE else value)
    tl.store(log_det_ptr + sample, values, mask=sample < samples)


@triton.jit
def fold_backward_kernel(
    sums_ptr,  # (C, C + 1): of grad x^T, and of grad
    folded_ptr,  # (C, C)
    log_scale_ptr,  # (C,), or None, as is the next
    shift_ptr,
    grad_weight_ptr,  # (C, C)
    grad_log_scale_ptr,  # (C,), or None, as is the next
    grad_shift_ptr,
    channels,
    BLOCK: tl.constexpr,
):
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    scale = tl.full((1, BLOCK), 1.0, tl.float32)
    shift = tl.zeros((1, BLOCK), tl.float32)
    if log_scale_ptr is not None:
        scale = exp(tl.load(log_scale_ptr + j, mask=j < channels, other=0.0))
    if shift_ptr is not None:
        shift = tl.load(shift_ptr + j, mask=j < channels, other=0.0)

    grad_log_scale = tl.zeros((BLOCK, BLOCK), tl.float32)
    grad_shift = tl.zeros((BLOCK, BLOCK), tl.float32)
    for first in range(0, channels, BLOCK):
        i = first + tl.arange(0, BLOCK)[:, None]
        live = (i < channels) & (j < channels)  # [BLOCK, BLOCK]
        row_ptrs = sums_ptr + i * (channels + 1)
        plain = tl.load(row_ptrs + channels, mask=i < channels, other=0.0)
        grad = tl.load(row_ptrs + j, mask=live, other=0.0) + plain * shift
        folded = tl.load(folded_ptr + i * channels + j, mask=live, other=0.0)
        grad_log_scale += folded * grad
        grad_shift += folded * plain
        tl.store(grad_weight_ptr + i * channels + j, grad * scale, mask=live)

    if grad_log_scale_ptr is not None:
        total = tl.sum(grad_log_scale, axis=0, keep_dims=True)
        tl.store(grad_log_scale_ptr + j, total, mask=j < channels)
    if grad_shift_ptr is not None:
        total = tl.sum(grad_shift, axis=0, keep_dims=True)
        tl.store(grad_shift_ptr + j, total, mask=j < channels)


@triton.jit
def factors_backward_kernel(
    grad_weight_ptr,  # (C, C)
    lower_ptr,  # (C, C)
    log_diag_ptr,  # (C,)
    upper_ptr,  # (C, C)
    sign_ptr,  # (C,)
    permutation_ptr,  # (C,)
    grad_lower_ptr,  # (C, C), or None, as are the next two
    grad_log_diag_ptr,  # (C,)
    grad_upper_ptr,  # (C, C)
    channels,
    BLOCK: tl.constexpr,
):
    """With G = P^T grad_W: grad_L = G (U + D)^T below the diagonal, grad_U = L^T G on and above."""
    blocks = tl.cdiv(channels, BLOCK)
    i = tl.program_id(0) // blocks * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)[None, :]
    live = (i < channels) & (j < channels)  # [BLOCK, BLOCK]
    zero = tl.zeros((BLOCK, BLOCK), tl.float32)

    # Row i of grad_W is row permutation[i] of G, and so of grad_L.
    row = tl.load(permutation_ptr + i, mask=i < channels, other=0).to(tl.int32)
    if grad_lower_ptr is not None:
        grad = zero
        for first in range(0, channels, BLOCK):
            k = first + tl.arange(0, BLOCK)
            left_live = (i < channels) & (k[None, :] < channels)
            left = tl.load(grad_weight_ptr + i * channels + k[None, :], mask=left_live, other=0.0)
            right = _load_upper(upper_ptr, log_diag_ptr, sign_ptr, j, k[:, None], channels)
            grad = tl.dot(left, right, grad, input_precision="ieee")
        ptrs = grad_lower_ptr + row * channels + j
        tl.store(ptrs, tl.where(j < row, grad, 0.0), mask=live)

    grad = zero
    for first in range(0, channels, BLOCK):
        k = first + tl.arange(0, BLOCK)
        at = tl.load(permutation_ptr + k, mask=k < channels, other=0).to(tl.int32)
        left = _load_lower(lower_ptr, at[None, :], i, channels)  # [BLOCK, BLOCK]: L^T
        left = tl.where(k[None, :] < channels, left, 0.0)
        right_live = (k[:, None] < channels) & (j < channels)
        right = tl.load(grad_weight_ptr + k[:, None] * channels + j, mask=right_live, other=0.0)
        grad = tl.dot(left, right, grad, input_precision="ieee")

    if grad_upper_ptr is not None:
        tl.store(grad_upper_ptr + i * channels + j, tl.where(j > i, grad, 0.0), mask=live)
    if grad_log_diag_ptr is not None:
        diagonal = _load_upper(upper_ptr, log_diag_ptr, sign_ptr, i, j, channels)
        tl.store(grad_log_diag_ptr + i + 0 * j, grad * diagonal, mask=live & (i == j))
