"""Launch the Triton kernels of activation normalization: one pass a direction, and one of sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from dgm_fast._core.integers import ceil_div
from dgm_fast._core.triton_channels import TILE, WARPS, Tiling
from dgm_fast._core.triton_compile import AotKernel, programs
from dgm_fast.ops.actnorm.op import empty_like
from dgm_fast.ops.actnorm.triton_passes import (
    backward_kernel,
    forward_kernel,
    parameters_kernel,
)

# Programs of a pass that sums, four on each of a large GPU's processors.
_PROGRAMS = programs(512)
# Pieces and channels that the sums' kernel adds at a time.
_SUMS = {"BLOCK_P": 32, "BLOCK_C": 32, "BLOCK": 1024}


def forward(x: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Return y (B, C, P) and log_det, (B,)."""
    y = empty_like(x)
    if y.numel() == 0:
        # Of no pixels, but a NaN among the log-scales is not lost.
        total = x.shape[2] * log_scale.sum(dtype=torch.float32)
        return y, (-total if inverse else total).repeat(x.shape[0])

    log_det = x.new_empty(x.shape[0], dtype=torch.float32)
    tiling = Tiling.of(x)
    _launch(
        forward_kernel,
        tiling,
        {"x": x, "y": y},
        {"log_scale": log_scale, "shift": shift},
        log_det_ptr=log_det,
        samples=x.shape[0],
        pixels=x.shape[2],
        INVERSE=inverse,
        BLOCK=TILE,
    )
    return y, log_det


def backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    log_scale: Tensor,
    shift: Tensor,
    inverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, log_scale and shift; one that is not needed is empty."""
    grad_x = empty_like(x) if needs[0] else x.new_empty(0)
    of_scale, of_shift = (shift.new_empty(shift.shape if need else 0) for need in needs[1:])
    sums, pieces = (None, None), 0
    if grad_y is not None and x.numel() > 0:
        tiling = Tiling.of(x, _PROGRAMS)
        if needs[1] or needs[2]:
            pieces = tiling.sizes["pieces"]
            sums = x.new_empty(2, pieces, x.shape[1], dtype=torch.float32).unbind()
        _launch(
            backward_kernel,
            tiling,
            {"grad_y": grad_y, "x": x, "grad_x": grad_x if needs[0] else None},
            {"log_scale": log_scale, "shift": shift},
            plain_ptr=sums[0],
            scaled_ptr=sums[1],
            INVERSE=inverse,
        )
    else:
        grad_x.zero_()

    if (needs[1] or needs[2]) and x.shape[1] > 0:
        with torch.cuda.device_of(x):
            parameters_kernel[(ceil_div(x.shape[1], _SUMS["BLOCK_C"]),)](
                plain_ptr=sums[0],
                scaled_ptr=sums[1],
                grad_log_det_ptr=grad_log_det,
                log_scale_ptr=log_scale,
                grad_log_scale_ptr=of_scale if needs[1] else None,
                grad_shift_ptr=of_shift if needs[2] else None,
                samples=x.shape[0],
                pixels=x.shape[2],
                channels=x.shape[1],
                pieces=pieces,
                grad_log_det_stride=0 if grad_log_det is None else grad_log_det.stride(0),
                log_scale_stride=log_scale.stride(0),
                INVERSE=inverse,
                **_SUMS,
                num_warps=4,
            )
    return grad_x, of_scale, of_shift


def _launch(
    kernel: triton.JITFunction,
    tiling: Tiling,
    tensors: dict[str, Tensor | None],
    parameters: dict[str, Tensor],
    **others: Any,
) -> None:
    arguments = dict(others)
    for name, t in tensors.items():
        view = None if t is None else tiling.view(t)
        strides = (0, 0) if view is None else view.stride()[:2]
        arguments |= {f"{name}_ptr": view}
        arguments |= dict(zip((f"{name}_stride_o", f"{name}_stride_c"), strides, strict=True))
    for name, t in parameters.items():
        arguments |= {f"{name}_ptr": t, f"{name}_stride": t.stride(0)}

    with torch.cuda.device_of(arguments["x_ptr"]):
        kernel[(tiling.programs,)](**arguments, **tiling.sizes, **tiling.constants)


def _aot_kernels() -> Iterator[AotKernel]:
    lines = {"CHANNELS_INNER": False, "BLOCK_O": 2, "BLOCK_I": 1024}
    pixels = {"CHANNELS_INNER": True, "BLOCK_O": 128, "BLOCK_I": 16}
    for dtype, inverse in (("fp32", False), ("bf16", True), ("fp16", False)):
        for label, layout in (("lines", lines), ("pixels", pixels)):
            constants = {"INVERSE": inverse, "BLOCK": TILE, **layout}
            for kernel in (forward_kernel, backward_kernel):
                yield _aot_kernel(kernel, f"{label}-{dtype}", dtype, WARPS, constants)

        constants = {"INVERSE": inverse, **_SUMS}
        yield _aot_kernel(parameters_kernel, dtype, dtype, 4, constants)


def _aot_kernel(
    kernel: triton.JITFunction, label: str, dtype: str, warps: int, constants: dict[str, Any]
) -> AotKernel:
    constants = {"log_scale_stride": 1, "shift_stride": 1, "grad_log_det_stride": 1, **constants}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    floats = ("log_det_ptr", "grad_log_det_ptr", "plain_ptr", "scaled_ptr")
    signature = {
        name: "*fp32" if name in floats else f"*{dtype}" if name.endswith("_ptr") else "i32"
        for name in kernel.arg_names
        if name not in constants
    }
    config = triton.Config({}, num_warps=warps)
    name = f"{kernel.__name__}-{label}"
    return AotKernel(name, kernel, signature, constants, lambda target: [config])


AOT_KERNELS = tuple(_aot_kernels())
