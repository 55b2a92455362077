"""Launch sums over live taps: of what is before an output, for it, and after an input, for its
gradient.

What is summed over is read as rows: pixels with their channels side by side. What is written goes
to where it belongs in any layout. A signal is an image of one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.precision import convolutions_in_tf32
from dgm_fast._core.triton_compile import programs
from dgm_fast._core.triton_taps.gate import gate_backward_kernel
from dgm_fast._core.triton_taps.images import Grid, Images
from dgm_fast._core.triton_taps.products import grad_weight_kernel, product_kernel
from dgm_fast._core.triton_taps.sums import add_sums_kernel, sum_pixels_kernel
from dgm_fast._core.triton_taps.tiles import (
    ADD,
    GATE,
    LARGEST_P,
    PACK,
    ROWS,
    SUM,
    finish_tiles,
    piece_tile,
)
from dgm_fast._core.triton_taps.weights import finish_kernel, pack_kernel, rows_kernel

# Pixels of a gradient of the weight are cut until there are this many tiles of _SQUARE, two for
# each of a large GPU's processors, but into no pieces shorter than _SHORTEST. The cuts follow from
# the sizes alone, and pieces are added in their order: bits are the same every time.
_PROGRAMS, _SQUARE, _SHORTEST = 256, 128, 512
# Pixels that are gated or summed are cut, by their sizes too, among this many programs: as many as
# a large GPU works on at once, and few enough sums to be added up in no time.
_MOVERS = 1024
# A block of products is of one tap where there are this many channels; of fewer it would be empty.
_CHANNELS = 16


@dataclass(frozen=True)
class Layer:
    """A convolution of which only the taps up to the centre are live.

    Attributes:
        outs: channels of y.
        ins: of x.
        parts: how often `outs` convolutions have: twice under a gate.
        kernel: height and width, with the dead taps.
        taps: that the weight has.
        groups: of ordered channels.
        strict: whether a group does not see itself.
    """

    outs: int
    ins: int
    parts: int
    kernel: tuple[int, int]
    taps: int
    groups: int = 1
    strict: bool = False

    @property
    def centre(self) -> int:
        """Place of the centre in a kernel, and how many taps are before it."""
        return self.kernel[0] // 2 * self.kernel[1] + self.kernel[1] // 2

    @property
    def groups_of(self) -> tuple[int, int]:
        """How many outputs, of a part, and how many inputs a group has."""
        return self.outs // self.groups, self.ins // self.groups

    @property
    def is_matrix(self) -> bool:
        """Whether it is a product with a matrix and no more."""
        return self.taps == 1 and self.parts == 1 and self.groups == 1 and not self.strict


def causal(weight: Tensor, parts: int = 1) -> Layer:
    """Return the convolution (out, in, k) of signals that sees nothing ahead.

    It is half of one whose kernel is centred, in which what is ahead is dead.
    """
    outs, ins, taps = weight.shape
    return Layer(outs // parts, ins, parts, (1, 2 * taps - 1), taps)


def product(
    layer: Layer,
    rows: Tensor,
    grid: Grid,
    weight: Tensor,
    y: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    kept: Tensor | None = None,
    after: bool = False,
) -> None:
    """Write y, the sum over live taps of x; or, `after`, an input's gradient from an output's.

    Arguments:
        layer: whose taps.
        rows: x or the gradient, as `rows_of` gives it.
        grid: y's.
        weight: (parts outs, ins, taps), of any strides.
        y: images, of half the sum's channels where the layer is gated and this is not `after`.
        bias: contiguous, added to the sum.
        residual: images, added too.
        kept: images that what the gate is given is written to.
        after: see above.
    """
    if y.numel() == 0:
        return

    N, parts = y.shape[1], 1 if after else layer.parts
    C, align_c = rows.shape[1], alignment(rows)
    kind, precision = arithmetic((rows,), (align_c,))
    group_n, group_c = reversed(layer.groups_of) if after else layer.groups_of
    written = tuple(images(each) for each in (residual, y, kept))
    matrix = packed(layer, weight, after, padded=kind != "odd")
    pixels = grid.samples * grid.height * grid.width
    sizes = (C, N, group_c, group_n, rows.stride(0), *matrix.stride()[:2])
    sizes += (parts * N, next_power_of_2(pixels))
    options = {"KIND": kind, "PRECISION": precision, "AFTER": after, "STRICT": layer.strict}
    options |= {"PARTS": parts, "KERNEL": layer.kernel, "LEAD": grid.lead != 0}
    options |= {"ALIGN_C": align_c, "ALIGN_N": math.gcd(16, N), "ALIGN_P": aligned_pixels(grid)}
    options["LAYOUT"] = layout(written)

    def programs(blocks: dict[str, int]) -> tuple[int]:
        return (ceil_div(pixels, blocks["BLOCK_P"]) * ceil_div(parts * N, blocks["BLOCK_N"]),)

    with torch.cuda.device_of(rows):
        product_kernel[programs](rows, matrix, bias, *written, grid, *sizes, **options)


def gate_backward(
    grad_y: Tensor, kept: Tensor, grad: Tensor, grad_bias: Tensor | None = None
) -> None:
    """Write the gradient of what a gate was given, images, and where asked its sums over pixels."""
    if grad.numel() == 0:
        if grad_bias is not None:
            grad_bias.zero_()
        return

    given = tuple(images(each) for each in (grad_y, kept, grad))
    pieces = _Pieces.of(given, grid_of(grad), GATE)
    sums = None if grad_bias is None else pieces.sums(grad_bias)
    with torch.cuda.device_of(grad):
        gate_backward_kernel[pieces.programs](*given, sums, *pieces.sizes, **pieces.constants)
    if grad_bias is not None:
        _add_sums(sums, grad_bias)


def sum_pixels(t: Tensor, result: Tensor) -> None:
    """Write the sum of images over their pixels, in float32 until it is stored."""
    if t.numel() == 0:
        result.zero_()
        return

    given = images(t)
    pieces = _Pieces.of((given,), grid_of(t), SUM)
    sums = pieces.sums(result)
    with torch.cuda.device_of(t):
        sum_pixels_kernel[pieces.programs](given, sums, *pieces.sizes, **pieces.constants)
    _add_sums(sums, result)


def _add_sums(sums: Tensor, result: Tensor) -> None:
    pieces, channels = sums.shape
    with torch.cuda.device_of(sums):
        add_sums_kernel[(ceil_div(channels, ADD["BLOCK_C"]),)](
            sums, result, pieces, channels, **ADD
        )


@dataclass(frozen=True)
class _Pieces:
    """How pixels are cut among programs that go over them by the tile.

    Attributes:
        count: how many pieces there are.
        programs: size of the grid.
        sizes: run-time arguments.
        constants: compile-time arguments, and the warps.
    """

    count: int
    programs: tuple[int]
    sizes: tuple[Grid, int, int]
    constants: dict[str, Any]

    @classmethod
    def of(cls, given: tuple[Images, ...], grid: Grid, elements: int) -> _Pieces:
        """Cut images, the first's channels of each, into pieces of tiles of so many elements."""
        _, channels, pixels = given[0].ptr.shape
        total = grid.samples * pixels
        tile = piece_tile(elements, channels, given[-1].stride_c == 1)
        tiles_c, tiles_p = ceil_div(channels, tile["BLOCK_C"]), ceil_div(total, tile["BLOCK_P"])
        count = min(tiles_p, ceil_div(programs(_MOVERS), tiles_c))
        length = ceil_div(tiles_p, count) * tile["BLOCK_P"]
        count = ceil_div(total, length)

        # Pieces begin at multiples of a tile.
        align_p = math.gcd(aligned_pixels(grid), tile["BLOCK_P"])
        constants = {"ALIGN_C": math.gcd(16, channels), "ALIGN_P": align_p}
        constants["JOINED"] = all(each.stride_b == pixels * each.stride_p for each in given)
        constants["LAYOUT"] = layout(given, length)
        return cls(count, (count * tiles_c,), (grid, channels, length), constants | tile)

    def sums(self, result: Tensor) -> Tensor:
        """Return memory for the sums of each piece."""
        return result.new_empty(self.count, result.numel(), dtype=torch.float32)


def grad_weight(layer: Layer, grad: Tensor, rows: Tensor, grid: Grid, result: Tensor) -> None:
    """Write a weight's gradient.

    Arguments:
        layer: whose weight.
        grad: of the sum, as `rows_of` gives it.
        rows: x, likewise.
        grid: the sum's.
        result: contiguous, of the weight's shape; zeros where the mask is.
    """
    C, O = rows.shape[1], grad.shape[1]
    total = grid.samples * grid.height * grid.width
    taps = layer.centre + (0 if layer.strict and layer.groups == 1 else 1)
    pieces, length = _cut(total, taps * ceil_div(O, _SQUARE) * ceil_div(C, _SQUARE))
    parts = rows.new_empty(pieces, O, taps * C, dtype=torch.float32)

    aligned = alignment(grad), alignment(rows)
    kind, precision = arithmetic((grad, rows), aligned)
    columns = taps * C if kind == "odd" else C

    def programs(blocks: dict[str, int]) -> tuple[int]:
        steps = ceil_div(columns, blocks["BLOCK_C"]) * (1 if kind == "odd" else taps)
        return (pieces * steps * ceil_div(O, blocks["BLOCK_O"]),)

    sizes = (C, O, length, grad.stride(0), rows.stride(0), columns, next_power_of_2(total))
    options = {"KIND": kind, "PRECISION": precision, "TAPS": taps, "KERNEL": layer.kernel}
    options |= {"LEAD": grid.lead != 0, "ALIGN_O": aligned[0], "ALIGN_C": aligned[1]}
    with torch.cuda.device_of(rows):
        if parts.numel() > 0:
            grad_weight_kernel[programs](grad, rows, parts, grid, *sizes, **options)
    add_pieces(layer, parts, taps, result)


def rows_of(t: Tensor) -> Tensor:
    """Return images as rows (pixels, C), copied unless a pixel's channels are side by side."""
    batch, C, height, width = t.shape
    if C == 1 or t.stride(1) == 1 or t.numel() == 0:
        return t.permute(0, 2, 3, 1).reshape(batch * height * width, C)

    rows = t.new_empty(batch * height * width, C)
    P = height * width
    tiles = batch * ceil_div(P, ROWS["BLOCK_P"]) * ceil_div(C, ROWS["BLOCK_C"])
    with torch.cuda.device_of(t):
        rows_kernel[(tiles,)](*images(t), rows, C, P, **ROWS)
    return rows


def grid_of(t: Tensor, dilation: tuple[int, int] = (1, 1), lead: int = 0) -> Grid:
    """Return the grid of images that are written, or summed over."""
    return Grid(t.shape[0], *t.shape[2:], lead, *dilation)


def packed(layer: Layer, weight: Tensor, after: bool, padded: bool) -> Tensor:
    """Return the live taps' weights as the product reads them, in rows that start on 16 bytes."""
    outs = layer.parts * layer.outs
    n, c = (layer.ins, outs) if after else (outs, layer.ins)
    weight = weight.reshape(outs, layer.ins, layer.taps)
    if layer.is_matrix and not after and weight.stride(1) == 1 and alignment(weight[:, :, 0]) == 16:
        return weight.transpose(1, 2)

    step = _multiple_of_16(c) if padded else c
    taps = layer.centre + 1
    rows = weight.new_empty(n, _multiple_of_16(taps * step))[:, : taps * step]
    matrix = rows.view(n, taps, step)

    sizes = (layer.outs, layer.ins, *layer.groups_of, *weight.stride(), *matrix.stride()[:2])
    kind = {"AFTER": after, "STRICT": layer.strict, "PARTS": layer.parts, "CENTRE": layer.centre}
    grid = (ceil_div(n, PACK["BLOCK_N"]) * taps * ceil_div(c, PACK["BLOCK_C"]),)
    with torch.cuda.device_of(weight):
        pack_kernel[grid](weight, matrix, *sizes, **kind, **PACK)

    return matrix


def _cut(pixels: int, tiles: int) -> tuple[int, int]:
    """Return how many pieces there are of the pixels that `tiles` sum over, and their length."""
    if pixels == 0 or tiles == 0:
        return 0, 0

    pieces = min(ceil_div(_PROGRAMS, tiles), ceil_div(pixels, _SHORTEST))
    # Whole blocks of any tile.
    length = ceil_div(pixels, pieces * _SQUARE) * _SQUARE
    return ceil_div(pixels, length), length


def add_pieces(layer: Layer, parts: Tensor, taps: int, result: Tensor) -> None:
    """Add up the pieces (n, outs, taps, ins) of a weight's gradient; put zeros where the mask is.

    Arguments:
        layer: whose weight.
        parts: float32, of the live taps in raster order.
        taps: how many there are.
        result: contiguous, of the weight's shape.
    """
    tiles = finish_tiles(layer.taps)
    rows = layer.parts * layer.outs
    grid = (ceil_div(rows * layer.ins, tiles["BLOCK_E"]),)
    if grid[0] == 0:
        return

    sizes = (parts.shape[0], rows, layer.outs, layer.ins, *layer.groups_of)
    constants = {"STRICT": layer.strict, "TAPS": taps, "CENTRE": layer.centre}
    with torch.cuda.device_of(result):
        finish_kernel[grid](parts, result, *sizes, **constants, ELEMENTS=layer.taps, **tiles)


def images(t: Tensor | None) -> Images:
    """Return images (B, C, H, W) with their pixels in one dim, copied where rows lie apart."""
    if t is None:
        return Images(None, 0, 0, 0)

    t = t.flatten(2)
    return Images(t, *t.stride())


def aligned_pixels(grid: Grid) -> int:
    """Return how many pixels every sample has a multiple of, 16 at most."""
    return math.gcd(16, grid.height * grid.width)


def layout(given: tuple[Images, ...], span: int = LARGEST_P) -> tuple[int, int, int, bool]:
    """Return what strides are multiples of, 16 at most, and whether samples are large.

    Arguments:
        given: the images, or none.
        span: how many pixels are counted from one sample.
    """
    given = tuple(each for each in given if each.ptr is not None)
    aligned = (
        math.gcd(16, *strides) for strides in zip(*(each[1:] for each in given), strict=True)
    )
    # Where an offset from the first of those samples may not fit 31 bits.
    large = False
    for ptr, stride_b, stride_c, stride_p in given:
        _, channels, pixels = ptr.shape
        samples = ceil_div(span, pixels)
        large |= samples * stride_b + channels * stride_c + pixels * stride_p >= 2**31

    return *aligned, large


def alignment(rows: Tensor) -> int:
    """Return how many elements every row starts on a multiple of, 16 at most."""
    if rows.data_ptr() % 16 != 0:
        return 1

    return math.gcd(16, rows.shape[1], rows.stride(0))


def arithmetic(operands: tuple[Tensor, ...], aligned: tuple[int, ...]) -> tuple[str, str]:
    """Return the kind of tiles that suits operands, and how their products are taken."""
    # float32 is multiplied as torch's own convolutions would.
    precision = "tf32" if operands[0].is_cuda and convolutions_in_tf32() else "ieee"
    size = operands[0].element_size()
    wide = min(aligned) * size >= 16 and operands[-1].shape[1] >= _CHANNELS
    return "odd" if not wide else "16" if size == 2 else precision, precision


def _multiple_of_16(n: int) -> int:
    return ceil_div(n, 16) * 16
