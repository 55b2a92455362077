"""Launch the Triton kernels of the spline: one pass a direction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel, programs
from dgm_fast.ops.rational_quadratic_spline.op import empty_gradient, empty_like_columns
from dgm_fast.ops.rational_quadratic_spline.reference import split_columns
from dgm_fast.ops.rational_quadratic_spline.triton_bins import Scales
from dgm_fast.ops.rational_quadratic_spline.triton_passes import (
    Columns,
    Elements,
    Parameters,
    Sizes,
    backward_kernel,
    forward_kernel,
)

# Parameters of one axis that a program handles at a time, and its warps: 8 parameters a thread, or
# 4 where it keeps sums of their gradients too.
_TILE, _WARPS, _SHARED_WARPS = 1024, 4, 8
# Samples that share parameters are cut into chunks until there are about this many programs, four
# on each of a large GPU's processors.
_PROGRAMS = programs(512)


def forward(
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None,
    derivatives: Tensor | None,
    bound: float,
    min_bin: float,
    min_derivative: float,
    bounded: bool,
    zuko: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and log_det, (B,)."""
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y, x.new_zeros(x.shape[0], dtype=torch.float32)

    parameters = _apart(widths, heights, derivatives, bounded)
    bins = parameters[0].shape[3]
    sizes, tiles = Sizes(*x.shape), _tiles(x.shape[2], bins)
    programs = sizes.outer * ceil_div(sizes.inner, tiles["BLOCK_I"])
    sums = x.new_empty(sizes.samples, programs, dtype=torch.float32)

    with torch.cuda.device_of(x):
        grid = (ceil_div(sizes.samples, tiles["BLOCK_B"]) * programs,)
        forward_kernel[grid](
            _elements(x),
            Parameters(*map(_columns, parameters)),
            _elements(y),
            sums,
            sizes,
            _scales(bins, bound, min_bin, min_derivative, zuko),
            **_kind(bins, bounded, zuko, inverse),
            **tiles,
            num_warps=_WARPS,
        )

    # One piece is its sample's sum; more are added in their order.
    return y, sums.view(-1) if programs == 1 else sums.sum(1)


def backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    widths: Tensor,
    heights: Tensor | None,
    derivatives: Tensor | None,
    bound: float,
    min_bin: float,
    min_derivative: float,
    bounded: bool,
    zuko: bool,
    inverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of x and of the parameters; one that is not needed is empty."""
    given, packed = (widths, heights, derivatives), heights is None
    grad_x = x.new_empty(x.shape)
    if x.numel() == 0:
        zeros = (
            empty_gradient(each).zero_() if need else widths.new_empty(0)
            for each, need in zip(given, needs[1:], strict=True)
        )
        return grad_x, *zeros

    parameters = _apart(*given, bounded)
    bins, shared = parameters[0].shape[3], len(widths) != len(x)
    tiles = _tiles(x.shape[2], bins)
    blocks, chunks = _chunks(x, tiles, shared)
    layout = (chunks, torch.float32) if shared else (len(widths), widths.dtype)
    # Those that are not needed have their place too, and nothing is written there.
    grads = [None if each is None else empty_like_columns(each, *layout) for each in given]
    apart = _apart(*grads, bounded)
    wanted = (needs[0], *(needs[1:2] * 3 if packed else needs[1:]))

    grid = (chunks * x.shape[1] * ceil_div(x.shape[2], tiles["BLOCK_I"]),)
    with torch.cuda.device_of(x):
        backward_kernel[grid](
            _elements(grad_y),
            _per_sample(grad_log_det),
            _elements(x),
            Parameters(*map(_columns, parameters)),
            _elements(grad_x),
            Parameters(*map(_columns, apart)),
            Sizes(*x.shape),
            _scales(bins, bound, min_bin, min_derivative, zuko),
            sum(2**bit for bit, want in enumerate(wanted) if want),
            blocks,
            **_kind(bins, bounded, zuko, inverse),
            SHARED=shared,
            **tiles,
            BLOCK_N=next_power_of_2(parameters[2].shape[3]),
            num_warps=_SHARED_WARPS if shared else _WARPS,
        )

    if shared:
        # The chunks in their order.
        grads = [
            empty_gradient(each).copy_(sums.sum(0, keepdim=True)) if need else None
            for each, sums, need in zip(given, grads, needs[1:], strict=True)
        ]

    of_parameters = (
        each if need else widths.new_empty(0) for each, need in zip(grads, needs[1:], strict=True)
    )
    return grad_x if needs[0] else x.new_empty(0), *of_parameters


def _apart(
    widths: Tensor, heights: Tensor | None, derivatives: Tensor | None, bounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return widths, heights and derivatives, which are views where they came as one tensor."""
    return split_columns(widths, bounded) if heights is None else (widths, heights, derivatives)


def _tiles(inner: int, bins: int) -> dict[str, int]:
    block_k = next_power_of_2(bins)
    block_e = max(1, _TILE // block_k)
    block_i = min(block_e, next_power_of_2(inner))
    return {"BLOCK_B": block_e // block_i, "BLOCK_I": block_i, "BLOCK_K": block_k}


def _chunks(x: Tensor, tiles: dict[str, int], shared: bool) -> tuple[int, int]:
    """Return how many blocks of samples a program takes, and how many times it takes that many."""
    total = ceil_div(x.shape[0], tiles["BLOCK_B"])
    programs = x.shape[1] * ceil_div(x.shape[2], tiles["BLOCK_I"])
    blocks = ceil_div(total, max(1, _PROGRAMS // programs)) if shared else 1
    return blocks, ceil_div(total, blocks)


def _elements(t: Tensor | None) -> Elements:
    return Elements(None, 0, 0, 0) if t is None else Elements(t, *t.stride())


def _per_sample(t: Tensor | None) -> Elements:
    return Elements(None, 0, 0, 0) if t is None else Elements(t, t.stride(0), 0, 0)


def _columns(t: Tensor | None) -> Columns:
    if t is None or t.numel() == 0:
        return Columns(None, 0, 0, 0, 0)

    # One sample's are all samples'.
    return Columns(t, t.stride(0) if t.shape[0] > 1 else 0, *t.stride()[1:])


def _scales(bins: int, bound: float, min_bin: float, min_derivative: float, zuko: bool) -> Scales:
    if zuko:
        return Scales(bound, 0.0, 2 * bound, min_derivative, -1 / math.log(min_derivative))

    least = 2 * bound * min_bin
    return Scales(bound, least, 2 * bound * (1 - min_bin * bins), min_derivative, 0.0)


def _kind(bins: int, bounded: bool, zuko: bool, inverse: bool) -> dict[str, Any]:
    return {"K": bins, "ZUKO": zuko, "BOUNDED": bounded, "INVERSE": inverse}


def _aot_kernels() -> Iterator[AotKernel]:
    for dtype in ("fp32", "bf16", "fp16"):
        yield from _aot_of("nflows", dtype, 8)
    yield from _aot_of("inverse", "bf16", 8, INVERSE=True)
    yield from _aot_of("zuko", "fp16", 8, ZUKO=True)
    yield from _aot_of("bounded-zuko-inverse", "fp32", 10, BOUNDED=True, ZUKO=True, INVERSE=True)
    yield from _aot_of("bounded", "fp32", 5, BOUNDED=True)
    yield from _aot_of("many-bins", "fp32", 37)
    yield from _aot_of("together", "bf16", 8, strides=("i32", "i32", "i32", 1))
    yield from _aot_of("planes", "fp32", 8, strides=("i32", "i32", 1, "i32"))


def _aot_of(
    name: str, dtype: str, bins: int, strides: tuple[Any, ...] | None = None, **kind: bool
) -> Iterator[AotKernel]:
    """List the kernels for tensors apart and dense, but for `strides`."""
    kind = {"K": bins, "ZUKO": False, "BOUNDED": False, "INVERSE": False} | kind
    counts = (bins, bins, bins + 1 if kind["BOUNDED"] else bins - 1)
    block_n = next_power_of_2(counts[2])

    def columns(dtype: str) -> Parameters:
        return Parameters(
            *(Columns(f"*{dtype}", *(strides or ("i32", "i32", count, 1))) for count in counts)
        )

    elements = Elements(f"*{dtype}", "i32", "i32", 1)
    arguments = {"x": elements, "y": elements, "grad_y": elements, "grad_x": elements}
    arguments |= {"grad_log_det": Elements("*fp32", "i32", 0, 0), "parameters": columns(dtype)}
    arguments |= {"sums_ptr": "*fp32", "sizes": Sizes("i32", 1, "i32"), "blocks": "i32"}
    arguments |= {"wanted": "i32"}
    arguments |= {"scales": Scales(*["fp32"] * len(Scales._fields))}

    passes = ((forward_kernel, False), (backward_kernel, False), (backward_kernel, True))
    for function, shared in passes:
        constants = {**kind, **_tiles(32, bins), "BLOCK_N": block_n, "SHARED": shared}
        constants |= {} if shared else {"blocks": 1}
        grads = columns("fp32" if shared else dtype)
        signature = {
            key: each
            for key, each in (arguments | {"grads": grads}).items()
            if key in function.arg_names and key not in constants
        }
        config = triton.Config({}, num_warps=_SHARED_WARPS if shared else _WARPS)
        label = f"{function.__name__}-{name}{'-shared' if shared else ''}-{dtype}"
        yield AotKernel(label, function, signature, constants, lambda _, c=config: [c], False)


AOT_KERNELS = tuple(_aot_kernels())
