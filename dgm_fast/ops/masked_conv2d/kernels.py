"""Launch the Triton kernels of `masked_conv2d`.

Images are read as pixels with their channels side by side; those that come otherwise are copied.
What is written goes to where it belongs in either layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.precision import convolutions_in_tf32
from dgm_fast.ops.masked_conv2d.op import images
from dgm_fast.ops.masked_conv2d.tiles import GATE, LARGEST_P, PACK, finish_tiles
from dgm_fast.ops.masked_conv2d.triton_aot import aot_kernels
from dgm_fast.ops.masked_conv2d.triton_passes import (
    Grid,
    Images,
    gate_backward_kernel,
    grad_weight_kernel,
    product_kernel,
)
from dgm_fast.ops.masked_conv2d.triton_weights import finish_kernel, pack_kernel

# Pixels of a gradient of the weight are cut until there are this many tiles of _SQUARE, two for
# each of a large GPU's processors, but into no pieces shorter than _SHORTEST. The cuts follow from
# the sizes alone, and pieces are added in their order: bits are the same every time.
_PROGRAMS, _SQUARE, _SHORTEST = 256, 128, 512
# A block of products is of one tap where there are this many channels; of fewer it would be empty.
_CHANNELS = 16


@dataclass(frozen=True)
class _Layer:
    """A masked convolution's sizes.

    Attributes:
        outs: channels of y.
        ins: of x.
        parts: how often `outs` convolutions have: twice under a gate.
        groups: of ordered channels.
        strict: whether a group does not see itself.
        kernel: height, width and their dilations.
    """

    outs: int
    ins: int
    parts: int
    groups: int
    strict: bool
    kernel: tuple[int, int, int, int]

    @classmethod
    def of(
        cls, weight: Tensor, groups: int, strict: bool, dilation: tuple[int, int], gated: bool
    ) -> _Layer:
        parts = 2 if gated else 1
        outs, ins, *sides = weight.shape
        return cls(outs // parts, ins, parts, groups, strict, (*sides, *dilation))

    @property
    def centre(self) -> int:
        """Place of the centre in a kernel, and how many taps are before it."""
        return self.kernel[0] // 2 * self.kernel[1] + self.kernel[1] // 2

    @property
    def groups_of(self) -> tuple[int, int]:
        """How many outputs, of a part, and how many inputs a group has."""
        return self.outs // self.groups, self.ins // self.groups


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    groups: int,
    strict: bool,
    dilation_h: int,
    dilation_w: int,
    gated: bool,
    keep: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and, where asked, what its gate was given."""
    layer = _Layer.of(weight, groups, strict, (dilation_h, dilation_w), gated)
    y = images(x, x.shape[0], layer.outs, channels_last)
    kept = images(x, x.shape[0] if keep else 0, weight.shape[0], channels_last)
    if y.numel() > 0:
        added = (None if bias is None else bias.contiguous(), residual)
        _product(layer, x, weight, *added, y, kept if keep else None, after=False)

    return y, kept


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    kept: Tensor | None,
    groups: int,
    strict: bool,
    dilation_h: int,
    dilation_w: int,
    channels_last: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight, bias and what the gate was given, or empty ones."""
    layer = _Layer.of(weight, groups, strict, (dilation_h, dilation_w), kept is not None)
    grad_x = images(x, x.shape[0] if needs[0] else 0, layer.ins, channels_last)
    grad_weight, grad_bias = (weight.new_empty(0, *weight.shape[1:]), weight.new_empty(0))
    of_gate = images(x, 0 if kept is None else x.shape[0], weight.shape[0], channels_last)
    grad = grad_y if kept is None else of_gate
    if kept is not None and grad.numel() > 0:
        _gate_backward(grad_y, kept, grad)

    if needs[2]:
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
    if needs[0] or needs[1]:
        grad = grad.contiguous(memory_format=torch.channels_last)
    if needs[0] and grad_x.numel() > 0:
        _product(layer, grad, weight, None, None, grad_x, None, after=True)
    if needs[1]:
        grad_weight = weight.new_empty(weight.shape)
        _grad_weight(layer, grad, x, grad_weight)

    return grad_x, grad_weight, grad_bias, of_gate


def _product(
    layer: _Layer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    kept: Tensor | None,
    after: bool,
) -> None:
    """Write y, the sum over live taps of x; or, `after`, an input's gradient from an output's."""
    rows, N, parts = _rows(x), y.shape[1], 1 if after else layer.parts
    C, align_c = rows.shape[1], _alignment(rows)
    kind, precision = _arithmetic((rows,), (align_c,))
    group_n, group_c = reversed(layer.groups_of) if after else layer.groups_of
    written = tuple(_images(each) for each in (residual, y, kept))
    packed = _packed(layer, weight, after, padded=kind != "odd")
    sizes = (C, N, group_c, group_n, rows.stride(0), packed.stride(0), packed.stride(1))
    sizes += (parts * N, next_power_of_2(rows.shape[0]))
    options = {"KIND": kind, "PRECISION": precision, "AFTER": after, "STRICT": layer.strict}
    options |= {"PARTS": parts, "KERNEL": layer.kernel, "ALIGN_C": align_c}
    options |= {"ALIGN_N": math.gcd(16, N), "ALIGN_P": _aligned_pixels(_grid(x))}
    options["LAYOUT"] = _layout(written)

    def grid(blocks: dict[str, int]) -> tuple[int]:
        tiles = ceil_div(rows.shape[0], blocks["BLOCK_P"])
        return (tiles * ceil_div(parts * N, blocks["BLOCK_N"]),)

    with torch.cuda.device_of(x):
        product_kernel[grid](rows, packed, bias, *written, _grid(x), *sizes, **options)


def _packed(layer: _Layer, weight: Tensor, after: bool, padded: bool) -> Tensor:
    """Return the live taps' weights as the product reads them, in rows that start on 16 bytes."""
    outs = layer.parts * layer.outs
    n, c = (layer.ins, outs) if after else (outs, layer.ins)
    step = _multiple_of_16(c) if padded else c
    taps = layer.centre + 1
    packed = weight.new_empty(n, _multiple_of_16(taps * step))[:, : taps * step].view(n, taps, step)

    weight = weight.flatten(2)
    sizes = (layer.outs, layer.ins, *layer.groups_of, *weight.stride(), *packed.stride()[:2])
    kind = {"AFTER": after, "STRICT": layer.strict, "PARTS": layer.parts, "CENTRE": layer.centre}
    grid = (ceil_div(n, PACK["BLOCK_N"]) * taps * ceil_div(c, PACK["BLOCK_C"]),)
    with torch.cuda.device_of(weight):
        pack_kernel[grid](weight, packed, *sizes, **kind, **PACK)

    return packed


def _gate_backward(grad_y: Tensor, kept: Tensor, grad: Tensor) -> None:
    given, C = tuple(_images(each) for each in (grad_y, kept, grad)), grad_y.shape[1]
    grid = _grid(grad)
    tiles = ceil_div(math.prod(grid), GATE["BLOCK_P"]) * ceil_div(C, GATE["BLOCK_C"])
    options = {"ALIGN_C": math.gcd(16, C), "ALIGN_P": _aligned_pixels(grid)}
    options["LAYOUT"] = _layout(given)
    with torch.cuda.device_of(grad):
        gate_backward_kernel[(tiles,)](*given, grid, C, **options, **GATE)


def _grad_weight(layer: _Layer, grad: Tensor, x: Tensor, grad_weight: Tensor) -> None:
    grad, x, grid = _rows(grad), _rows(x), _grid(x)
    (total, C), O = x.shape, grad.shape[1]
    taps = layer.centre + (0 if layer.strict and layer.groups == 1 else 1)
    pieces, length = _cut(total, taps * ceil_div(O, _SQUARE) * ceil_div(C, _SQUARE))
    parts = x.new_empty(pieces, O, taps * C, dtype=torch.float32)

    aligned = _alignment(grad), _alignment(x)
    kind, precision = _arithmetic((grad, x), aligned)
    columns = taps * C if kind == "odd" else C

    def tiles_of(blocks: dict[str, int]) -> tuple[int]:
        steps = ceil_div(columns, blocks["BLOCK_C"]) * (1 if kind == "odd" else taps)
        return (pieces * steps * ceil_div(O, blocks["BLOCK_O"]),)

    sizes = (C, O, length, grad.stride(0), x.stride(0), columns, next_power_of_2(total))
    options = {"KIND": kind, "PRECISION": precision, "TAPS": taps, "KERNEL": layer.kernel}
    options |= {"ALIGN_O": aligned[0], "ALIGN_C": aligned[1]}
    with torch.cuda.device_of(x):
        if parts.numel() > 0:
            grad_weight_kernel[tiles_of](grad, x, parts, grid, *sizes, **options)
        _finish(layer, parts, taps, grad_weight)


def _cut(pixels: int, tiles: int) -> tuple[int, int]:
    """Return how many pieces there are of the pixels that `tiles` sum over, and their length."""
    if pixels == 0 or tiles == 0:
        return 0, 0

    pieces = min(ceil_div(_PROGRAMS, tiles), ceil_div(pixels, _SHORTEST))
    # Whole blocks of any tile.
    length = ceil_div(pixels, pieces * _SQUARE) * _SQUARE
    return ceil_div(pixels, length), length


def _finish(layer: _Layer, parts: Tensor, taps: int, grad_weight: Tensor) -> None:
    """Add up the pieces, and put zeros where the mask is."""
    elements = layer.kernel[0] * layer.kernel[1]
    tiles = finish_tiles(elements)
    rows = layer.parts * layer.outs
    grid = (ceil_div(rows * layer.ins, tiles["BLOCK_E"]),)
    if grid[0] == 0:
        return

    sizes = (parts.shape[0], rows, layer.outs, layer.ins, *layer.groups_of)
    constants = {"STRICT": layer.strict, "TAPS": taps, "CENTRE": layer.centre}
    finish_kernel[grid](parts, grad_weight, *sizes, **constants, ELEMENTS=elements, **tiles)


def _rows(t: Tensor) -> Tensor:
    """Return images as (pixels, C), copied unless a pixel's channels are side by side."""
    rows = t.permute(0, 2, 3, 1).reshape(t.shape[0] * t.shape[2] * t.shape[3], t.shape[1])
    return rows if t.shape[1] == 1 or rows.stride(1) == 1 else rows.contiguous()


def _images(t: Tensor | None) -> Images:
    """Return images (B, C, H, W) with their pixels in one dim, copied where rows lie apart."""
    if t is None:
        return Images(None, 0, 0, 0)

    t = t.flatten(2)
    return Images(t, *t.stride())


def _aligned_pixels(grid: Grid) -> int:
    """Return how many pixels every sample has a multiple of, 16 at most."""
    return math.gcd(16, grid.height * grid.width)


def _layout(given: tuple[Images, ...]) -> tuple[int, int, int, bool]:
    """Return what strides are multiples of, 16 at most, and whether samples are large."""
    given = tuple(each for each in given if each.ptr is not None)
    aligned = (
        math.gcd(16, *strides) for strides in zip(*(each[1:] for each in given), strict=True)
    )
    # Where an offset from the first sample of a tile may not fit 31 bits.
    large = False
    for ptr, stride_b, stride_c, stride_p in given:
        _, channels, pixels = ptr.shape
        samples = ceil_div(LARGEST_P, pixels)
        large |= samples * stride_b + channels * stride_c + pixels * stride_p >= 2**31

    return *aligned, large


def _grid(t: Tensor) -> Grid:
    return Grid(t.shape[0], *t.shape[2:])


def _alignment(rows: Tensor) -> int:
    """Return how many elements every row starts on a multiple of, 16 at most."""
    if rows.data_ptr() % 16 != 0:
        return 1

    return math.gcd(16, rows.shape[1], rows.stride(0))


def _arithmetic(operands: tuple[Tensor, ...], aligned: tuple[int, ...]) -> tuple[str, str]:
    """Return the kind of tiles that suits operands, and how their products are taken."""
    # float32 is multiplied as torch's own convolutions would.
    precision = "tf32" if operands[0].is_cuda and convolutions_in_tf32() else "ieee"
    size = operands[0].element_size()
    wide = min(aligned) * size >= 16 and operands[-1].shape[1] >= _CHANNELS
    return "odd" if not wide else "16" if size == 2 else precision, precision


def _multiple_of_16(n: int) -> int:
    return ceil_div(n, 16) * 16


AOT_KERNELS = tuple(aot_kernels())
