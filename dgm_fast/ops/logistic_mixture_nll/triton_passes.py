"""The forward and the backward pass of the mixture of logistics as Triton kernels.

A program has a tile of BLOCK_S samples by BLOCK_E pixels and goes through the components.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dgm_fast._core import triton_math
from dgm_fast._core.triton_rows import tile_of
from dgm_fast.ops.logistic_mixture_nll.triton_bins import Bin, bin_of


class Planes(NamedTuple):
    """Numbers (samples, planes, pixels)."""

    ptr: Any
    stride_b: Any
    stride_n: Any
    stride_p: Any


class LogSumExp(NamedTuple):
    """What has been added up to now: the largest, and the sum of exponentials less it."""

    largest: Any
    total: Any


class Component(NamedTuple):
    """A component at the pixels of a tile: its logit, its exponent, and what moves the latter."""

    logit: Any
    exponent: Any
    bin0: Any
    bin1: Any
    bin2: Any
    by_alpha0: Any
    by_alpha1: Any
    by_alpha2: Any


@triton.jit
def _place(planes, row, pixel):
    return row * planes.stride_b + pixel.to(tl.int64) * planes.stride_p


@triton.jit
def _at(planes, place, plane):
    # Counted in 64 bits, as is the place.
    return planes.ptr + (place + (tl.zeros((1, 1), tl.int64) + plane) * planes.stride_n)


@triton.jit
def _load(planes, place, plane, live):
    return tl.load(_at(planes, place, plane), mask=live, other=0.0).to(tl.float32)


@triton.jit
def _start(live):
    zero = tl.zeros(live.shape, tl.float32)
    return LogSumExp(zero + float("-inf"), zero)


@triton.jit
def _add(sums, v):
    # The comparison is false with NaN, which then is the larger.
    larger = tl.where(v < sums.largest, sums.largest, v)
    none = larger == float("-inf")
    before = tl.where(none, 0.0, sums.largest - larger)
    now = tl.where(none, v, v - larger)
    return LogSumExp(larger, sums.total * triton_math.exp(before) + triton_math.exp(now))


@triton.jit
def _value(sums):
    return sums.largest + triton_math.log(sums.total)


@triton.jit
def _bin_at(
    parameters, place, k, components, live, x, shift, channel: tl.constexpr, OF: tl.constexpr
):
    plane = components * (1 + channel * OF) + k
    mean = _load(parameters, place, plane, live) + shift
    return bin_of(x, mean, _load(parameters, place, plane + components, live))


@triton.jit
def _coefficient(parameters, place, k, components, live, channel: tl.constexpr):
    return triton_math.tanh(_load(parameters, place, components * (3 + 3 * channel) + k, live))


@triton.jit
def _component(parameters, place, k, components, live, x0, x1, x2, CHANNELS: tl.constexpr):
    logit = _load(parameters, place, k, live)
    zero = tl.zeros(live.shape, tl.float32)
    if CHANNELS == 1:
        none = Bin(zero, zero, zero, zero)
        bin0 = _bin_at(parameters, place, k, components, live, x0, zero, 0, 2)
        exponent = logit + bin0.outside + triton_math.log(bin0.factor)
        return Component(logit, exponent, bin0, none, none, zero, zero, zero)
    else:
        w0 = _coefficient(parameters, place, k, components, live, 0)
        w1 = _coefficient(parameters, place, k, components, live, 1)
        w2 = _coefficient(parameters, place, k, components, live, 2)
        bin0 = _bin_at(parameters, place, k, components, live, x0, zero, 0, 3)
        bin1 = _bin_at(parameters, place, k, components, live, x1, w0 * x0, 1, 3)
        bin2 = _bin_at(parameters, place, k, components, live, x2, w1 * x0 + w2 * x1, 2, 3)
        outside = bin0.outside + bin1.outside + bin2.outside
        # Three channels' factors are at least 2e-5 together.
        exponent = logit + outside + triton_math.log(bin0.factor * bin1.factor * bin2.factor)
        by_alpha0 = bin1.by_mean * x0 * (1.0 - w0 * w0)
        by_alpha1 = bin2.by_mean * x0 * (1.0 - w1 * w1)
        by_alpha2 = bin2.by_mean * x1 * (1.0 - w2 * w2)
        return Component(logit, exponent, bin0, bin1, bin2, by_alpha0, by_alpha1, by_alpha2)


@triton.jit
def _load_pixels(x, row, pixel, live, CHANNELS: tl.constexpr):
    place = _place(x, row, pixel)
    x0 = tl.load(x.ptr + place, mask=live, other=0.0)
    if CHANNELS == 1:
        return x0, x0, x0
    else:
        x1 = tl.load(x.ptr + place + x.stride_n, mask=live, other=0.0)
        x2 = tl.load(x.ptr + place + 2 * x.stride_n, mask=live, other=0.0)
        return x0, x1, x2


@triton.jit
def _log_sums(parameters, place, components, live, x0, x1, x2, CHANNELS: tl.constexpr):
    """Return the logarithms of the sums of exponentials of all logits and of all exponents."""
    weights, joint = _start(live), _start(live)
    for k in range(0, components):
        found = _component(parameters, place, k, components, live, x0, x1, x2, CHANNELS)
        weights, joint = _add(weights, found.logit), _add(joint, found.exponent)

    return _value(weights), _value(joint)


@triton.jit
def forward_kernel(
    x,
    parameters,
    sums_ptr,  # (samples, blocks of pixels)
    samples,
    pixels,
    components,
    CHANNELS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, pixel, _, live = tile_of(tl.program_id(0), samples, pixels, BLOCK_S, BLOCK_E)
    x0, x1, x2 = _load_pixels(x, row, pixel, live, CHANNELS)
    place = _place(parameters, row, pixel)

    of_weights, of_joint = _log_sums(parameters, place, components, live, x0, x1, x2, CHANNELS)

    nll = tl.where(live, of_weights - of_joint, 0.0)
    blocks = tl.cdiv(pixels, BLOCK_E)
    sums = sums_ptr + row * blocks + tl.program_id(0) % blocks
    tl.store(sums, tl.sum(nll, axis=1)[:, None], mask=row < samples)


@triton.jit
def _store(planes, place, plane, values, live):
    tl.store(_at(planes, place, plane), values.to(planes.ptr.dtype.element_ty), mask=live)


@triton.jit
def _store_channel(
    grads, place, k, components, live, pull, of, by_alpha, channel: tl.constexpr, OF: tl.constexpr
):
    plane = components * (1 + channel * OF) + k
    _store(grads, place, plane, pull * of.by_mean, live)
    _store(grads, place, plane + components, pull * of.by_log_scale, live)
    if OF == 3:
        _store(grads, place, plane + 2 * components, pull * by_alpha, live)


@triton.jit
def backward_kernel(
    grad_ptr,  # (samples,)
    x,
    parameters,
    grads,
    grad_stride,
    samples,
    pixels,
    components,
    CHANNELS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row, pixel, _, live = tile_of(tl.program_id(0), samples, pixels, BLOCK_S, BLOCK_E)
    x0, x1, x2 = _load_pixels(x, row, pixel, live, CHANNELS)
    place, out = _place(parameters, row, pixel), _place(grads, row, pixel)
    grad = tl.load(grad_ptr + row * grad_stride, mask=row < samples, other=0.0)

    of_weights, of_joint = _log_sums(parameters, place, components, live, x0, x1, x2, CHANNELS)

    # The second reading finds the parameters in a cache.
    for k in range(0, components):
        found = _component(parameters, place, k, components, live, x0, x1, x2, CHANNELS)
        share = triton_math.exp(found.exponent - of_joint)
        pull = -grad * share
        of_logit = grad * (triton_math.exp(found.logit - of_weights) - share)
        _store(grads, out, k, of_logit, live)
        if CHANNELS == 1:
            _store_channel(grads, out, k, components, live, pull, found.bin0, pull, 0, 2)
        else:
            _store_channel(grads, out, k, components, live, pull, found.bin0, found.by_alpha0, 0, 3)
            _store_channel(grads, out, k, components, live, pull, found.bin1, found.by_alpha1, 1, 3)
            _store_channel(grads, out, k, components, live, pull, found.bin2, found.by_alpha2, 2, 3)
