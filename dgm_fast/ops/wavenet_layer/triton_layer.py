"""A residual layer as one Triton kernel: z's tiles go on to the second product as they are made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel, signature_of
from dgm_fast._core.triton_taps import launch
from dgm_fast._core.triton_taps.gate import gated
from dgm_fast._core.triton_taps.images import Grid, Images, aligned, load, store, tile_of_pixels
from dgm_fast._core.triton_taps.products import sum_over_taps
from dgm_fast._core.triton_taps.tiles import Tiles, aot_configs, tuned

# Times, columns of the first sum, and block of it; warps and stages.
_TILES: Tiles = {
    ("sm_90", "16"): (
        (128, 64, 64, 8, 3),
        (64, 128, 64, 8, 3),
        (64, 64, 64, 4, 3),
        (32, 32, 64, 4, 3),
    ),
    ("sm_80", "16"): (
        (128, 64, 32, 8, 3),
        (64, 128, 32, 8, 3),
        (64, 64, 32, 4, 3),
        (32, 32, 32, 4, 3),
    ),
    ("gfx942", "16"): ((64, 128, 64, 4, 2), (64, 64, 32, 4, 2), (32, 32, 64, 4, 2)),
    ("sm_90", "tf32"): ((64, 64, 32, 8, 2), (32, 32, 32, 8, 2)),
    ("sm_80", "tf32"): ((64, 64, 32, 8, 2), (32, 32, 32, 8, 2)),
    ("sm_90", "ieee"): ((64, 32, 16, 8, 2), (32, 32, 16, 4, 2)),
    ("sm_80", "ieee"): ((64, 32, 16, 8, 2), (32, 32, 16, 4, 2)),
    ("gfx942", "ieee"): ((64, 64, 32, 8, 2), (32, 32, 32, 4, 2)),
    ("sm_90", "odd"): ((64, 32, 32, 8, 2), (32, 32, 16, 4, 2)),
    ("sm_80", "odd"): ((32, 32, 16, 4, 2),),
}
# Channels of y that one program makes; where there are more, others do the first sum again.
_FEWEST_R = 16
_MOST_R = {"16": 128, "tf32": 128, "ieee": 64, "odd": 32}


@tuned("PNC", height="pixel_bucket", table=_TILES)
@triton.jit(do_not_specialize=["pixel_bucket"])
def layer_kernel(
    x_ptr,  # (B T, C), channels side by side
    weight_ptr,  # (2 G, TAPS, C), as pack_kernel leaves it
    bias_ptr,  # (2 G,), or None
    condition,  # images of 2 G channels, or none
    kept,  # what the gate is given, likewise, or none
    z,  # images of G channels
    late_ptr,  # (C, G)
    late_bias_ptr,  # (C,), or None
    residual,  # images of C channels
    y,  # images of C channels
    grid,
    C,
    G,
    x_stride_p,
    weight_stride_n,
    weight_stride_t,
    late_stride_c,
    late_stride_g,
    columns,  # read by the tuner alone, as is pixel_bucket
    pixel_bucket,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    KERNEL: tl.constexpr,
    TAPS: tl.constexpr,
    ALIGN_C: tl.constexpr,
    ALIGN_P: tl.constexpr,
    LAYOUT: tl.constexpr,
    BLOCK_R: tl.constexpr,  # channels of y
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    ODD: tl.constexpr = KIND == "odd"
    C, x_stride_p = aligned(C, ALIGN_C), aligned(x_stride_p, ALIGN_C)
    tiles_r = tl.cdiv(C, BLOCK_R)
    pixels = tile_of_pixels(tl.program_id(0) // tiles_r, grid, ALIGN_P, BLOCK_P)
    r = tl.program_id(0) % tiles_r * BLOCK_R + tl.arange(0, BLOCK_R)
    steps = tl.cdiv(TAPS * C, BLOCK_C) if ODD else TAPS * tl.cdiv(C, BLOCK_C)
    operands = (x_ptr, x_stride_p, weight_ptr, weight_stride_n, weight_stride_t)
    blocks: tl.constexpr = (BLOCK_P, BLOCK_N, BLOCK_C)

    total = tl.zeros((BLOCK_P, BLOCK_R), tl.float32)
    for first in range(0, G, BLOCK_N // 2):
        row, g = first * 2 + tl.arange(0, BLOCK_N), first + tl.arange(0, BLOCK_N // 2)
        places = (row, row < 2 * G, pixels, grid, C)
        h = sum_over_taps(
            0, steps, operands, places, 0, TAPS, KERNEL, False, ODD, PRECISION, blocks
        )
        gate = gated(h, g, g < G, G, pixels, bias_ptr, condition, kept, LAYOUT)
        gate = tl.where((g < G)[None, :], gate, 0.0)
        store(z, pixels, g, pixels.there[:, None] & (g < G)[None, :], gate, LAYOUT)

        late_ptrs = late_ptr + (g * late_stride_g)[:, None] + (r * late_stride_c)[None, :]
        late = tl.load(late_ptrs, mask=(g < G)[:, None] & (r < C)[None, :], other=0.0)
        high = gate.to(late.dtype)
        total = tl.dot(high, late, total, input_precision=PRECISION)
        if late.dtype.primitive_bitwidth == 16:
            # What rounding took goes through the product, too: y is made of z itself.
            low = (gate - high.to(tl.float32)).to(late.dtype)
            total = tl.dot(low, late, total)

    mask = pixels.there[:, None] & (r < C)[None, :]
    if late_bias_ptr is not None:
        total += tl.load(late_bias_ptr + r, mask=r < C, other=0.0).to(tl.float32)[None, :]
    total += load(residual, pixels, r, mask, LAYOUT)
    store(y, pixels, r, mask, total, LAYOUT)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    late: Tensor,
    late_bias: Tensor | None,
    condition: Tensor | None,
    y: Tensor,
    z: Tensor,
    kept: Tensor | None,
    dilation: int,
) -> None:
    """Write y, z and what the gate is given; signals are images of one row."""
    if y.numel() == 0:
        return

    layer, grid = launch.causal(weight, parts=2), launch.grid_of(y, (1, dilation))
    rows = launch.rows_of(x)
    C, G = y.shape[1], z.shape[1]
    align_c = launch.alignment(rows)
    kind, precision = launch.arithmetic((rows,), (align_c,))
    # x as it was read, or as it lies where that is the same.
    x = rows.view(*y.shape[:1], *y.shape[2:], C).permute(0, 3, 1, 2)
    of_gate = [launch.images(each) for each in (condition, kept, z)]
    of_y = [launch.images(each) for each in (x, y)]
    matrix = launch.packed(layer, weight, after=False, padded=kind != "odd")
    pixels = grid.samples * grid.width
    sizes = (C, G, rows.stride(0), *matrix.stride()[:2], *late.stride()[:2])
    sizes += (2 * G, next_power_of_2(pixels))
    options = {"KIND": kind, "PRECISION": precision, "KERNEL": layer.kernel, "TAPS": layer.taps}
    options |= {"ALIGN_C": align_c, "ALIGN_P": launch.aligned_pixels(grid)}
    options["LAYOUT"] = launch.layout((*of_gate, *of_y))
    options["BLOCK_R"] = min(max(next_power_of_2(C), _FEWEST_R), _MOST_R[kind])

    def programs(blocks: dict[str, int]) -> tuple[int]:
        return (ceil_div(pixels, blocks["BLOCK_P"]) * ceil_div(C, options["BLOCK_R"]),)

    given = (rows, matrix, bias, *of_gate, late, late_bias, *of_y, grid)
    with torch.cuda.device_of(x):
        layer_kernel[programs](*given, *sizes, **options)


def aot_kernels() -> Iterator[AotKernel]:
    """List the kernel with all that it may be given."""
    for dtype, kind, odd in (
        ("bf16", "16", False),
        ("fp16", "16", False),
        ("fp32", "ieee", False),
        ("fp32", "tf32", False),
        ("bf16", "16", True),
        ("fp32", "ieee", True),
    ):
        images = Images(f"*{dtype}", "i32", 1, "i32")
        given: dict[str, Any] = dict.fromkeys(("condition", "kept", "z", "residual", "y"), images)
        given["grid"] = Grid(*["i32"] * len(Grid._fields))
        constants: dict[str, Any] = {"KIND": "odd" if odd else kind, "KERNEL": (1, 3), "TAPS": 2}
        constants["PRECISION"] = "tf32" if kind == "tf32" else "ieee"
        constants["BLOCK_R"] = _MOST_R[constants["KIND"]]
        constants |= {"ALIGN_C": 1 if odd else 16, "ALIGN_P": 1 if odd else 16}
        constants["LAYOUT"] = (1, 1, 1, False) if odd else (16, 1, 16, False)
        signature = signature_of(layer_kernel.fn, dtype, given, constants)
        label = "-".join(("layer", dtype, *["tf32"] * (kind == "tf32"), *["odd"] * odd))
        configs = partial(aot_configs, "PNC", kind, odd, table=_TILES)
        yield AotKernel(label, layer_kernel.fn, signature, constants, configs, not odd)
