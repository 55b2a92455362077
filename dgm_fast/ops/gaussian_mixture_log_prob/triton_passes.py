"""The passes of a Gaussian mixture's density as Triton kernels.

All but the first and the last are sums of outer products, as a matrix product is: a tile stays in
registers, and each step brings one number to each of its rows and one or two to each of its
columns. A product of matrices would need squares of sums, which cancel far from 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast._core.triton_math import exp, log

_LOG_TWO_PI = tl.constexpr(1.8378770664093453)


@triton.jit
def _piece(piece, pieces, size, BLOCK: tl.constexpr):
    """Return the range of a piece: whole blocks, as many in each; the last pieces may be empty."""
    length = tl.cdiv(tl.cdiv(size, BLOCK), pieces) * BLOCK
    return piece * length, tl.minimum(size, (piece + 1) * length)


@triton.jit
def pack_kernel(
    means_ptr,  # (K, D), any strides, as are the next two
    log_vars_ptr,  # (K, D)
    log_weights_ptr,  # (K,)
    turned_ptr,  # (2, D, K): means and precisions
    precisions_ptr,  # (K, D), or None
    constants_ptr,  # (K,)
    components,
    dims,
    means_stride_k,
    means_stride_d,
    log_vars_stride_k,
    log_vars_stride_d,
    log_weights_stride,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    k = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
    sums = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for first in range(0, dims, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)[None, :]
        live = (k < components) & (d < dims)  # [BLOCK_K, BLOCK_D]
        mean = tl.load(means_ptr + k * means_stride_k + d * means_stride_d, mask=live, other=0.0)
        log_var_ptrs = log_vars_ptr + k * log_vars_stride_k + d * log_vars_stride_d
        log_var = tl.load(log_var_ptrs, mask=live, other=0.0).to(tl.float32)
        sums += tl.where(live, log_var + _LOG_TWO_PI, 0.0)

        precision = exp(-log_var)
        turned = d.to(tl.int64) * components + k
        tl.store(turned_ptr + turned, mean.to(tl.float32), mask=live)
        tl.store(turned_ptr + tl.cast(dims, tl.int64) * components + turned, precision, mask=live)
        if precisions_ptr is not None:
            tl.store(precisions_ptr + k * dims + d, precision, mask=live)

    live = k < components
    log_weight = tl.load(log_weights_ptr + k * log_weights_stride, mask=live, other=0.0)
    constant = log_weight.to(tl.float32) - 0.5 * tl.sum(sums, axis=1, keep_dims=True)
    tl.store(constants_ptr + k, constant, mask=live)


@triton.jit
def density_kernel(
    z_ptr,  # (B, D), any strides
    turned_ptr,  # (2, D, K)
    constants_ptr,  # (K,)
    log_probs_ptr,  # (B, pieces): of a piece of the components
    exponents_ptr,  # (B, K), or None
    rows,
    components,
    dims,
    z_stride_b,
    z_stride_d,
    pieces,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    piece = tl.program_id(0) % pieces
    begin, end = _piece(piece, pieces, components, BLOCK_K)
    row = (tl.program_id(0) // pieces).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    # Rows and components past the end are the last ones again: read, and not stored or weighed.
    z_ptrs = z_ptr + tl.minimum(row, rows - 1) * z_stride_b
    precisions_ptr = turned_ptr + tl.cast(dims, tl.int64) * components

    largest = tl.full((BLOCK_B, 1), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_B, 1), tl.float32)
    for first in range(begin, end, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)[None, :]
        place = tl.minimum(k, components - 1).to(tl.int64)
        distance = tl.zeros((BLOCK_B, BLOCK_K), tl.float32)
        for d in range(dims):
            z = tl.load(z_ptrs + tl.cast(d, tl.int64) * z_stride_d).to(tl.float32)  # [BLOCK_B, 1]
            column = tl.cast(d, tl.int64) * components + place
            difference = z - tl.load(turned_ptr + column)  # [BLOCK_B, BLOCK_K]
            distance += difference * tl.load(precisions_ptr + column) * difference

        constant = tl.load(constants_ptr + place)
        exponent = tl.where(k < components, constant - 0.5 * distance, float("-inf"))
        if exponents_ptr is not None:
            live = (row < rows) & (k < components)
            tl.store(exponents_ptr + row * components + k, exponent, mask=live)
        largest, total = _add_exponentials(largest, total, exponent)

    log_prob = tl.where(tl.abs(largest) < float("inf"), largest, 0.0) + log(total)
    tl.store(log_probs_ptr + row * pieces + piece, log_prob, mask=row < rows)


@triton.jit
def _add_exponentials(largest, total, exponent):
    """Add exponentials to `total`, the sum so far less its largest exponent, each [BLOCK_B, 1]."""
    found = tl.maximum(largest, tl.max(exponent, axis=1, keep_dims=True))
    # With nothing finite to subtract, a sum is 0, infinity or NaN as it should be.
    shift = tl.where(tl.abs(found) < float("inf"), found, 0.0)
    factor = tl.where(tl.abs(largest) < float("inf"), exp(largest - shift), 1.0)
    return found, total * factor + tl.sum(exp(exponent - shift), axis=1, keep_dims=True)


@triton.jit
def weigh_kernel(
    shares_ptr,  # (B, K): exponents before, shares times the rows' gradients after
    log_prob_ptr,  # (B,)
    grad_ptr,  # (B,), any stride
    rows,
    components,
    grad_stride,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    blocks = tl.cdiv(components, BLOCK_K)
    row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    k = tl.program_id(0) % blocks * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    live = (row < rows) & (k < components)
    log_prob = tl.load(log_prob_ptr + row, mask=row < rows, other=0.0)
    grad = tl.load(grad_ptr + row * grad_stride, mask=row < rows, other=0.0)
    ptrs = shares_ptr + row * components + k
    share = exp(tl.load(ptrs, mask=live, other=0.0) - log_prob)
    tl.store(ptrs, grad * share, mask=live)


@triton.jit
def points_kernel(
    z_ptr,  # (B, D), any strides
    means_ptr,  # (K, D), any strides
    precisions_ptr,  # (K, D)
    shares_ptr,  # (B, K), times the rows' gradients
    grads_ptr,  # (pieces, B, D): of a piece of the components
    rows,
    components,
    dims,
    z_stride_b,
    z_stride_d,
    means_stride_k,
    means_stride_d,
    pieces,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    piece = tl.program_id(0) % pieces
    begin, end = _piece(piece, pieces, components, 1)
    tile, blocks = tl.program_id(0) // pieces, tl.cdiv(dims, BLOCK_D)
    row = (tile // blocks).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    d = tile % blocks * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    safe_row, safe_d = tl.minimum(row, rows - 1), tl.minimum(d, dims - 1).to(tl.int64)
    z = tl.load(z_ptr + safe_row * z_stride_b + safe_d * z_stride_d).to(tl.float32)

    grad = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    for k in range(begin, end):
        wide = tl.cast(k, tl.int64)
        share = tl.load(shares_ptr + safe_row * components + wide)  # [BLOCK_B, 1]
        mean = tl.load(means_ptr + wide * means_stride_k + safe_d * means_stride_d).to(tl.float32)
        precision = tl.load(precisions_ptr + wide * dims + safe_d)  # [1, BLOCK_D]
        grad += (mean - z) * share * precision

    ptrs = grads_ptr + (piece.to(tl.int64) * rows + row) * dims + d
    tl.store(ptrs, grad.to(grads_ptr.dtype.element_ty), mask=(row < rows) & (d < dims))


@triton.jit
def parameters_kernel(
    z_ptr,  # (B, D), any strides
    means_ptr,  # (K, D), any strides
    shares_ptr,  # (B, K), times the rows' gradients
    sums_ptr,  # (pieces, 2, K, D): of share (z - mean), and of share (z - mean)^2, added to
    weights_ptr,  # (pieces, K): of the shares, added to
    rows,
    components,
    dims,
    z_stride_b,
    z_stride_d,
    means_stride_k,
    means_stride_d,
    pieces,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    piece = (tl.program_id(0) % pieces).to(tl.int64)
    begin, end = _piece(tl.program_id(0) % pieces, pieces, rows, 1)
    tile, blocks = tl.program_id(0) // pieces, tl.maximum(1, tl.cdiv(dims, BLOCK_D))
    k = (tile // blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
    d = tile % blocks * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    safe_k, live_d = tl.minimum(k, components - 1), d < dims
    live = (k < components) & live_d  # [BLOCK_K, BLOCK_D]
    ptrs = means_ptr + safe_k * means_stride_k + d * means_stride_d
    mean = tl.load(ptrs, mask=live_d, other=0.0).to(tl.float32)

    first_ptrs = sums_ptr + (2 * piece * components + k) * dims + d
    second_ptrs = first_ptrs + tl.cast(components, tl.int64) * dims
    weight_ptrs = weights_ptr + piece * components + k
    first = tl.load(first_ptrs, mask=live, other=0.0)
    second = tl.load(second_ptrs, mask=live, other=0.0)
    weight = tl.load(weight_ptrs, mask=k < components, other=0.0)
    for b in range(begin, end):
        wide = tl.cast(b, tl.int64)
        share = tl.load(shares_ptr + wide * components + safe_k)  # [BLOCK_K, 1]
        z = tl.load(z_ptr + wide * z_stride_b + d * z_stride_d, mask=live_d, other=0.0)
        difference = z.to(tl.float32) - mean
        weighed = share * difference
        first += weighed
        second += weighed * difference
        weight += share

    tl.store(first_ptrs, first, mask=live)
    tl.store(second_ptrs, second, mask=live)
    tl.store(weight_ptrs, weight, mask=(k < components) & (tile % blocks == 0))


@triton.jit
def finish_kernel(
    sums_ptr,  # (pieces, 2, K, D)
    weights_ptr,  # (pieces, K)
    precisions_ptr,  # (K, D)
    grad_means_ptr,  # (K, D), or None
    grad_log_vars_ptr,  # (K, D), or None
    components,
    dims,
    pieces,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks = tl.cdiv(dims, BLOCK_D)
    k = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
    d = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    live = (k < components) & (d < dims)  # [BLOCK_K, BLOCK_D]
    place, size = k * dims + d, tl.cast(components, tl.int64) * dims

    first = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    second = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    weight = tl.zeros((BLOCK_K, 1), tl.float32)
    for piece in range(pieces):
        first += tl.load(sums_ptr + 2 * piece * size + place, mask=live, other=0.0)
        second += tl.load(sums_ptr + (2 * piece + 1) * size + place, mask=live, other=0.0)
        weight_ptrs = weights_ptr + tl.cast(piece, tl.int64) * components + k
        weight += tl.load(weight_ptrs, mask=k < components, other=0.0)

    precision = tl.load(precisions_ptr + place, mask=live, other=0.0)
    if grad_means_ptr is not None:
        grad = (precision * first).to(grad_means_ptr.dtype.element_ty)
        tl.store(grad_means_ptr + place, grad, mask=live)
    if grad_log_vars_ptr is not None:
        grad = 0.5 * (precision * second - weight)
        tl.store(grad_log_vars_ptr + place, grad.to(grad_log_vars_ptr.dtype.element_ty), mask=live)
