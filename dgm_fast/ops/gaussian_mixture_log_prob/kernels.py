"""Launch the Triton kernels of a Gaussian mixture's density."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel, programs
from dgm_fast.ops.gaussian_mixture_log_prob.triton_passes import (
    density_kernel,
    finish_kernel,
    pack_kernel,
    parameters_kernel,
    points_kernel,
    weigh_kernel,
)

# Sums are cut until there are this many programs, two on each of a large GPU's processors. The cuts
# follow from the sizes alone, and pieces are added in their order: bits are the same every time.
_PROGRAMS = programs(256)
# Rows and components of a density's tile, and its warps: the second where the first are too few.
_LARGE, _SMALL = (64, 128, 8), (16, 64, 4)
_GRADIENTS = 2048  # numbers of a gradient's tile, 16 a thread
_PACK = {"BLOCK_K": 16, "BLOCK_D": 64}
_WEIGH = {"BLOCK_B": 16, "BLOCK_K": 128}
# Shares of rows by components that a backward keeps at a time, 64 MiB.
_SHARES = 2**24


class _Packed(NamedTuple):
    turned: Tensor  # (2, D, K): means and precisions
    precisions: Tensor | None  # (K, D)
    constants: Tensor  # (K,)


def forward(z: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor) -> Tensor:
    """Return log_prob, (B,)."""
    if z.shape[0] == 0:
        return z.new_empty(0, dtype=torch.float32)

    with torch.cuda.device_of(z):
        return _density(z, _pack(means, log_vars, log_weights, False), None)


def backward(
    grad: Tensor | None,
    z: Tensor,
    means: Tensor,
    log_vars: Tensor,
    log_weights: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of z, means, log_vars and log_weights; one not needed is empty."""
    rows, (components, dims) = z.shape[0], means.shape
    grads = [
        each.new_empty(each.shape if need else (0, *each.shape[1:]))
        for each, need in zip((z, means, log_vars, log_weights), needs, strict=True)
    ]
    grad = z.new_zeros(rows, dtype=torch.float32) if grad is None else grad
    blocks = _gradient_blocks(dims)
    tiles = ceil_div(components, blocks[0]) * max(1, ceil_div(dims, blocks[1]))
    length = max(1, min(rows, _SHARES // components))
    pieces = _pieces(tiles, length)
    sums = means.new_zeros(pieces, 2, components, dims, dtype=torch.float32)
    weights = means.new_zeros(pieces, components, dtype=torch.float32)

    with torch.cuda.device_of(z):
        packed = _pack(means, log_vars, log_weights, True)
        shares = z.new_empty(length, components, dtype=torch.float32)
        for first in range(0, rows, length):
            some = z[first : first + length]
            _weigh(some, packed, grad[first : first + length], shares)
            if needs[0] and dims > 0:
                _points(some, means, packed, shares, grads[0][first : first + length])
            if any(needs[1:]):
                parameters_kernel[(tiles * pieces,)](
                    some,
                    means,
                    shares,
                    sums,
                    weights,
                    *_sizes(some, means),
                    *some.stride(),
                    *means.stride(),
                    pieces,
                    *blocks,
                )

        if (needs[1] or needs[2]) and dims > 0:
            finish_kernel[(tiles,)](
                sums,
                weights,
                packed.precisions,
                grads[1] if needs[1] else None,
                grads[2] if needs[2] else None,
                components,
                dims,
                pieces,
                *blocks,
            )

    if needs[3]:
        grads[3] = weights.sum(0).to(log_weights.dtype)
    return tuple(grads)


def _sizes(z: Tensor, means: Tensor) -> tuple[int, int, int]:
    return z.shape[0], *means.shape


def _pieces(tiles: int, size: int) -> int:
    """Return in how many pieces to cut sums over `size` steps."""
    return max(1, min(size, ceil_div(_PROGRAMS, tiles)))


def _gradient_blocks(dims: int) -> tuple[int, int]:
    """Return rows, or components, and dims of a gradient's tile."""
    block_d = min(64, next_power_of_2(dims))
    return min(128, _GRADIENTS // block_d), block_d


def _pack(means: Tensor, log_vars: Tensor, log_weights: Tensor, by_component: bool) -> _Packed:
    components, dims = means.shape
    new = {"dtype": torch.float32}
    packed = _Packed(
        means.new_empty(2, dims, components, **new),
        means.new_empty(components, dims, **new) if by_component else None,
        means.new_empty(components, **new),
    )
    pack_kernel[(ceil_div(components, _PACK["BLOCK_K"]),)](
        means,
        log_vars,
        log_weights,
        *packed,
        components,
        dims,
        *means.stride(),
        *log_vars.stride(),
        log_weights.stride(0),
        **_PACK,
    )
    return packed


def _density(z: Tensor, packed: _Packed, exponents: Tensor | None) -> Tensor:
    """Return log_prob, (B,), and write the components' exponents where asked to."""
    rows, (components,), dims = z.shape[0], packed.constants.shape, z.shape[1]
    block_b, block_k, warps = _LARGE
    if ceil_div(rows, block_b) * ceil_div(components, block_k) < _PROGRAMS:
        block_b, block_k, warps = _SMALL

    tiles = ceil_div(rows, block_b)
    pieces = _pieces(tiles, ceil_div(components, block_k))
    log_probs = z.new_empty(rows, pieces, dtype=torch.float32)
    density_kernel[(tiles * pieces,)](
        z,
        packed.turned,
        packed.constants,
        log_probs,
        exponents,
        rows,
        components,
        dims,
        *z.stride(),
        pieces,
        block_b,
        block_k,
        num_warps=warps,
    )
    return log_probs.view(-1) if pieces == 1 else log_probs.logsumexp(1)


def _weigh(z: Tensor, packed: _Packed, grad: Tensor, shares: Tensor) -> None:
    """Write the components' shares of each row, times its gradient."""
    log_prob = _density(z, packed, shares)
    rows, components = z.shape[0], shares.shape[1]
    tiles = ceil_div(rows, _WEIGH["BLOCK_B"]) * ceil_div(components, _WEIGH["BLOCK_K"])
    weigh_kernel[(tiles,)](shares, log_prob, grad, rows, components, grad.stride(0), **_WEIGH)


def _points(z: Tensor, means: Tensor, packed: _Packed, shares: Tensor, grad_z: Tensor) -> None:
    """Write the gradient of some rows."""
    sizes = _sizes(z, means)
    blocks = _gradient_blocks(sizes[2])
    tiles = ceil_div(sizes[0], blocks[0]) * ceil_div(sizes[2], blocks[1])
    pieces = _pieces(tiles, sizes[1])
    partial = z.new_empty(pieces, *z.shape, dtype=torch.float32) if pieces > 1 else grad_z
    points_kernel[(tiles * pieces,)](
        z,
        means,
        packed.precisions,
        shares,
        partial,
        *sizes,
        *z.stride(),
        *means.stride(),
        pieces,
        *blocks,
    )
    if pieces > 1:
        grad_z.copy_(partial.sum(0))


def _aot_kernels() -> Iterator[AotKernel]:
    row = {"z_stride_d": 1, "means_stride_d": 1, "log_vars_stride_d": 1, "log_weights_stride": 1}

    def kernel(
        function: triton.JITFunction, name: str, dtype: str, warps: int = 4, **constants: Any
    ) -> AotKernel:
        constants = {**row, "grad_stride": 1, **constants}
        names = [each for each in function.arg_names if each not in constants]
        # Arguments and their gradients have the op's dtype.
        given = ("z_ptr", "means_ptr", "log_vars_ptr", "log_weights_ptr")
        given += ("grad_means_ptr", "grad_log_vars_ptr", "grads_ptr")
        types = {
            each: "i32" if not each.endswith("_ptr") else f"*{dtype if each in given else 'fp32'}"
            for each in names
        }
        config = triton.Config({}, num_warps=warps)
        label = f"{function.__name__}-{name}-{dtype}"
        return AotKernel(label, function, types, constants, lambda target: [config])

    for dtype in ("fp32", "bf16", "fp16"):
        yield kernel(pack_kernel, "forward", dtype, precisions_ptr=None, **_PACK)
        yield kernel(pack_kernel, "backward", dtype, **_PACK)
        for block_b, block_k, warps in (_LARGE, _SMALL):
            tile = {"BLOCK_B": block_b, "BLOCK_K": block_k}
            size = f"{block_b}x{block_k}"
            yield kernel(density_kernel, size, dtype, warps, exponents_ptr=None, **tile)
            yield kernel(density_kernel, f"{size}-kept", dtype, warps, **tile)
        for dims in (1, 12, 64) if dtype == "fp32" else (64,):
            block, block_d = _gradient_blocks(dims)
            of_points = {"BLOCK_B": block, "BLOCK_D": block_d}
            of_parameters = {"BLOCK_K": block, "BLOCK_D": block_d}
            yield kernel(points_kernel, f"{dims}-dims", dtype, **of_points)
            yield kernel(parameters_kernel, f"{dims}-dims", dtype, **of_parameters)
            yield kernel(finish_kernel, f"{dims}-dims", dtype, **of_parameters)

    yield kernel(weigh_kernel, "shares", "fp32", **_WEIGH)


AOT_KERNELS = tuple(_aot_kernels())
