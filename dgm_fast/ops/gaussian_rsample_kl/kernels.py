"""Launch the Triton kernels of `gaussian_rsample_kl`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast._core.triton_compile import UNFUSED, AotKernel, programs
from dgm_fast._core.triton_rows import TILE, aot_kernel, in_rows, stride_of, tile_shape, tiles
from dgm_fast.ops.gaussian_rsample_kl.triton_passes import (
    add_parts_kernel,
    backward_kernel,
    forward_kernel,
)

# Programs that sum a shared prior's gradients: four on each of a large GPU's processors, and as
# many on any other, so that the sums are the same.
_PROGRAMS = programs(512)
# Parts and columns that one program adds up at a time.
_PARTS = {"BLOCK_P": 64, "BLOCK_N": 32}


def forward(
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None,
    prior_log_var: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    sample_offset: int,
    stream: int,
    monte_carlo: bool,
    free_bits: float,
) -> tuple[Tensor, Tensor]:
    """Return z, and kl in float32."""
    samples, elements = mean.shape
    z, kl = mean.new_empty(mean.shape), mean.new_empty(samples, dtype=torch.float32)
    if z.numel() == 0:
        return z, kl.zero_()

    rows = [_in_rows(each) for each in (mean, log_var, prior_mean, prior_log_var, noise)]
    block_s, block_e = tile_shape(elements)
    pieces = ceil_div(elements, block_e)
    sums = kl if pieces == 1 else kl.new_empty(pieces, samples)
    with torch.cuda.device_of(mean):
        forward_kernel[(tiles(samples, elements),)](
            *rows,
            seed,
            z,
            sums,
            *(_step(each, samples) for each in rows),
            samples,
            elements,
            sample_offset,
            stream,
            free_bits,
            monte_carlo,
            block_s,
            block_e,
        )
        if pieces > 1:
            _add_parts(sums, kl)

    return z, kl


def backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None,
    prior_log_var: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    sample_offset: int,
    stream: int,
    monte_carlo: bool,
    free_bits: float,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of mean, log_var and the prior's; one that is not needed is empty."""
    samples, elements = mean.shape
    inputs = (mean, log_var, prior_mean, prior_log_var)
    grads = [
        mean.new_empty(each.shape if need else (0, elements))
        for each, need in zip(inputs, needs, strict=True)
    ]
    if mean.numel() == 0:
        return tuple(grad.zero_() for grad in grads)

    if grad_z is None and (grad_kl is None or not monte_carlo):
        noise = seed = None
    rows = [_in_rows(each) for each in (grad_z, *inputs, noise)]
    block_s, block_e = tile_shape(elements)
    shared = [need and grad.shape[0] != samples for grad, need in zip(grads, needs, strict=True)]
    parts, steps = _parts(samples, elements) if any(shared) else (ceil_div(samples, block_s), 1)
    written = [
        grad.new_empty((parts, elements), dtype=torch.float32) if is_shared else grad
        for grad, is_shared in zip(grads, shared, strict=True)
    ]
    with torch.cuda.device_of(mean):
        backward_kernel[(parts * ceil_div(elements, block_e),)](
            rows[0],
            grad_kl,
            *rows[1:],
            seed,
            *(each if need else None for each, need in zip(written, needs, strict=True)),
            _step(rows[0], samples),
            stride_of(grad_kl),
            *(_step(each, samples) for each in rows[1:]),
            samples,
            elements,
            sample_offset,
            stream,
            free_bits,
            steps,
            monte_carlo,
            *shared[2:],
            block_s,
            block_e,
            **UNFUSED,
        )
        for grad, each, is_shared in zip(grads, written, shared, strict=True):
            if is_shared:
                _add_parts(each, grad)

    return tuple(grads)


def _in_rows(each: Tensor | None) -> Tensor | None:
    return None if each is None else in_rows(each)


def _step(each: Tensor | None, samples: int) -> int:
    """Return the stride of the samples, 0 where one row serves them all."""
    return 0 if each is not None and each.shape[0] != samples else stride_of(each)


def _parts(samples: int, elements: int) -> tuple[int, int]:
    """Return how many parts of the samples are summed apart, and the tiles of samples in each."""
    block_s, block_e = tile_shape(elements)
    most = ceil_div(_PROGRAMS, ceil_div(elements, block_e))
    steps = ceil_div(ceil_div(samples, block_s), most)
    return ceil_div(samples, block_s * steps), steps


def _add_parts(parts: Tensor, out: Tensor) -> None:
    """Add the rows of `parts` in an order that depends on their number alone."""
    count, size = parts.shape
    grid = (ceil_div(size, _PARTS["BLOCK_N"]),)
    add_parts_kernel[grid](parts, out, count, size, **_PARTS)


def _aot(
    direction: str, dtype: str, form: str, prior: str, noise: str, kl_only: bool = False
) -> AotKernel:
    """List a pass: noise is a dtype, or "drawn"; a prior is "none", "own" or "shared"."""
    shared = prior == "shared"
    constants = {"MONTE_CARLO": form == "monte_carlo", "BLOCK_S": 1, "BLOCK_E": TILE}
    constants |= {"SHARED_MEAN": shared, "SHARED_LOG_VAR": shared}

    names = ["mean", "log_var", *(("prior_mean", "prior_log_var") if prior != "none" else ())]
    pointers = dict.fromkeys((*names, "z"), dtype) | {"kl": "fp32", "grad_kl": "fp32"}
    pointers |= {f"grad_{name}": "fp32" if shared and "prior" in name else dtype for name in names}
    if not kl_only:
        pointers |= {"grad_z": dtype, "seed": "i64"} if noise == "drawn" else {}
        pointers |= {"grad_z": dtype, "noise": noise} if noise != "drawn" else {}

    kernel = forward_kernel if direction == "forward" else backward_kernel
    label = "-".join((direction, dtype, form, prior, "kl_only" if kl_only else noise))
    options = UNFUSED if kernel is backward_kernel else {}
    return aot_kernel(label, kernel, constants, options, **pointers)


AOT_KERNELS = (
    _aot("forward", "fp32", "analytic", "none", "drawn"),
    _aot("forward", "fp32", "analytic", "own", "fp32"),
    _aot("forward", "fp32", "monte_carlo", "shared", "drawn"),
    _aot("forward", "bf16", "analytic", "own", "drawn"),
    _aot("forward", "bf16", "monte_carlo", "none", "fp32"),
    _aot("forward", "fp16", "analytic", "none", "drawn"),
    _aot("backward", "fp32", "analytic", "none", "drawn"),
    _aot("backward", "fp32", "analytic", "shared", "drawn"),
    _aot("backward", "fp32", "monte_carlo", "own", "drawn"),
    _aot("backward", "fp32", "monte_carlo", "shared", "fp32"),
    _aot("backward", "fp32", "analytic", "shared", "drawn", kl_only=True),
    _aot("backward", "bf16", "analytic", "own", "bf16"),
    _aot("backward", "bf16", "monte_carlo", "shared", "drawn"),
    _aot("backward", "fp16", "analytic", "none", "drawn"),
    aot_kernel("add_parts-fp32", add_parts_kernel, _PARTS, parts="fp32", out="fp32"),
    aot_kernel("add_parts-bf16", add_parts_kernel, _PARTS, parts="fp32", out="bf16"),
)
