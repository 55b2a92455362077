"""Launch the Triton kernels of affine coupling: one pass a direction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import UNFUSED, AotKernel, programs
from dgm_fast.ops.affine_coupling.op import SCALE_MAPS
from dgm_fast.ops.affine_coupling.triton_passes import backward_kernel, forward_kernel

# Elements that a program handles at a time, and its warps: of many short samples, or a long one.
_SHORT, _LONG = (1024, 8), (2048, 16)
# Long samples are cut until there are this many programs, two on each of a large GPU's processors.
_PROGRAMS = programs(256)


def forward(
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    mask: Tensor | None,
    scale_map: int,
    bound: float,
    min_scale: float,
    last: bool,
    shift_first: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and log_det, (B,)."""
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y, x.new_zeros(x.shape[0], dtype=torch.float32)

    x, log_scale, shift, y_lines = (_lines(each) for each in (x, log_scale, shift, y))
    sizes, tiles = _plan(x, shift)
    sums = x.new_empty(x.shape[0], sizes["pieces"], dtype=torch.float32)
    x_parts, y_parts = (_parts(each, shift.shape[1], last) for each in (x, y_lines))

    _launch(
        forward_kernel,
        {"x": x, "log_scale": log_scale, "shift": shift},
        {
            **{"x_ptr": x_parts[0], "x_still_ptr": x_parts[1], "log_scale_ptr": log_scale},
            **{"shift_ptr": shift, "mask_ptr": mask, "sums_ptr": sums},
            **{"y_ptr": y_parts[0], "y_still_ptr": y_parts[1], "y_stride_b": y_lines.stride(0)},
        },
        sizes,
        {**tiles, **_options(log_scale, scale_map, bound, min_scale, shift_first, inverse)},
    )
    # One piece is its sample's sum; more are added in their order.
    return y, sums.view(-1) if sizes["pieces"] == 1 else sums.sum(1)


def backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    log_scale: Tensor | None,
    shift: Tensor,
    mask: Tensor | None,
    scale_map: int,
    bound: float,
    min_scale: float,
    last: bool,
    shift_first: bool,
    inverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, log_scale and shift; one that is not needed is empty."""
    grads = [
        like.new_empty(like.shape if need else 0)
        for like, need in zip((x, shift, shift), needs, strict=True)
    ]
    if x.numel() == 0:
        return tuple(grads)

    x, log_scale, shift, grad_y = (_lines(each) for each in (x, log_scale, shift, grad_y))
    written = [_lines(each) if need else None for each, need in zip(grads, needs, strict=True)]
    sizes, tiles = _plan(x, shift)
    x_part, _ = _parts(x, shift.shape[1], last)
    grad_y_parts, grad_x_parts = (
        _parts(each, shift.shape[1], last) for each in (grad_y, written[0])
    )

    _launch(
        backward_kernel,
        {"grad_y": grad_y, "x": x, "log_scale": log_scale, "shift": shift},
        {
            **{"grad_y_ptr": grad_y_parts[0], "grad_y_still_ptr": grad_y_parts[1]},
            **{"grad_log_det_ptr": grad_log_det, "x_ptr": x_part, "log_scale_ptr": log_scale},
            **{"shift_ptr": shift, "mask_ptr": mask},
            **{"grad_x_ptr": grad_x_parts[0], "grad_x_still_ptr": grad_x_parts[1]},
            **{"grad_log_scale_ptr": written[1], "grad_shift_ptr": written[2]},
            "grad_log_det_stride": 0 if grad_log_det is None else grad_log_det.stride(0),
            "grad_x_stride_b": x.shape[1] * x.shape[2],
        },
        sizes,
        {
            **tiles,
            **_options(log_scale, scale_map, bound, min_scale, shift_first, inverse),
            **UNFUSED,
        },
    )
    return tuple(grads)


def _lines(t: Tensor | None) -> Tensor | None:
    """Return a tensor as (B, channels, inner), copied unless its channels are contiguous."""
    if t is None:
        return None

    inner = math.prod(t.shape[2:])
    t = t.reshape(t.shape[0], t.shape[1] if t.ndim > 1 else 1, inner)
    return t if inner <= 1 or t.stride(2) == 1 else t.contiguous()


def _parts(t: Tensor | None, moved: int, last: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the channels that move and those that stay, None where there are none."""
    if t is None:
        return None, None

    still = t.shape[1] - moved
    if still == 0:
        return t, None

    first, second = t[:, : still if last else moved], t[:, still if last else moved :]
    return (second, first) if last else (first, second)


def _plan(x: Tensor, shift: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Return the sizes that a kernel takes, and its tiles."""
    samples, channels, inner = x.shape
    moved, still = shift.shape[1] * inner, (channels - shift.shape[1]) * inner
    longest = max(moved, still)
    tile, warps = _SHORT if longest < _LONG[0] else _LONG
    block_e = min(tile, next_power_of_2(longest))
    pieces = min(ceil_div(longest, block_e), ceil_div(_PROGRAMS, samples))

    sizes = {"samples": samples, "moved": moved, "still": still, "inner": inner, "pieces": pieces}
    return sizes, {"BLOCK_B": tile // block_e, "BLOCK_E": block_e, "num_warps": warps}


def _options(
    log_scale: Tensor | None,
    scale_map: int,
    bound: float,
    min_scale: float,
    shift_first: bool,
    inverse: bool,
) -> dict[str, Any]:
    return {
        "bound": bound,
        "min_scale": min_scale,
        # Without a log-scale it is zero, and the scale of "exp" one.
        "MAP": 0 if log_scale is None else scale_map,
        "HAS_MIN": min_scale > 0,
        "BEFORE": shift_first != inverse,
        "INVERSE": inverse,
    }


def _launch(
    kernel: triton.JITFunction,
    lines: dict[str, Tensor | None],
    arguments: dict[str, Any],
    sizes: dict[str, int],
    options: dict[str, Any],
) -> None:
    strides, touch = {}, True
    for name, t in lines.items():
        stride_b, stride_c = (0, 0) if t is None else t.stride()[:2]
        strides |= {f"{name}_stride_b": stride_b, f"{name}_stride_c": stride_c}
        touch = touch and (t is None or t.shape[1] == 1 or stride_c == sizes["inner"])

    grid = (ceil_div(sizes["samples"], options["BLOCK_B"]) * sizes["pieces"],)
    with torch.cuda.device_of(arguments["x_ptr"]):
        kernel[grid](**arguments, **strides, **sizes, **options, TOUCH=touch)


def _aot_kernels() -> Iterator[AotKernel]:
    plain = {"MAP": 0, "HAS_MIN": False, "BEFORE": False, "INVERSE": False, "TOUCH": True}
    long, short = ({"BLOCK_B": 1, "BLOCK_E": _LONG[0]}, {"BLOCK_B": 16, "BLOCK_E": 64})

    def kernel(
        function: triton.JITFunction, name: str, dtype: str, warps: int, **changes: Any
    ) -> AotKernel:
        constants = {"mask_ptr": None, **plain, **long, **changes}
        label = f"{function.__name__}-{name}-{dtype}"
        signature = _signature(function, dtype, constants)
        config = triton.Config({}, num_warps=warps)
        options = UNFUSED if function is backward_kernel else {}
        return AotKernel(label, function, signature, constants, lambda _: [config], options=options)

    for function in (forward_kernel, backward_kernel):
        for code, scale_map in enumerate(SCALE_MAPS):
            has_min = scale_map == "softplus"
            yield kernel(function, scale_map, "fp32", _LONG[1], MAP=code, HAS_MIN=has_min)

        glow = {"MAP": SCALE_MAPS.index("sigmoid"), "BEFORE": True, "INVERSE": True}
        yield kernel(function, "glow", "bf16", _LONG[1], TOUCH=False, **glow)
        yield kernel(function, "short", "fp16", _SHORT[1], **short)


def _signature(kernel: triton.JITFunction, dtype: str, constants: dict[str, Any]) -> dict[str, str]:
    types = {"mask_ptr": "*i1", "sums_ptr": "*fp32", "grad_log_det_ptr": "*fp32"}
    types |= {"bound": "fp32", "min_scale": "fp32"}
    return {
        name: types.get(name, f"*{dtype}" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }


AOT_KERNELS = tuple(_aot_kernels())
