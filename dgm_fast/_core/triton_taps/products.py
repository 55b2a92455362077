"""The sums over live taps as Triton kernels.

Images are read as a matrix (pixels of all samples, C), in which a tap moves every row by as many
rows. Where a program's block of products is of one tap, its loads are wide; few channels, or rows
that do not start on 16 bytes ("odd"), share blocks, of which each column has a tap and a channel.

Taps are counted in raster order. The centre's is the last that an output sees, and the first that
an input's gradient hears from: a gradient comes from what is after its pixel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dgm_fast._core.implementation import interpreting
from dgm_fast._core.triton_taps.gate import added, gated
from dgm_fast._core.triton_taps.images import Pixels, aligned, pixels_from, store, tile_of_pixels
from dgm_fast._core.triton_taps.tiles import tuned

# Columns of a tile, each as often as a gate has parts, that are finished at once.
_AT_ONCE = tl.constexpr(64 if interpreting() else 256)


class Factors(NamedTuple):
    """Where the products of a block read, each from its tap and channel."""

    tap: Any  # one of all, or [BLOCK_C]
    channel: Any  # [BLOCK_C]
    there: Any  # [BLOCK_C]
    down: Any  # how far from the pixel, as tap
    across: Any


@triton.jit
def factors(
    step,
    C,
    grid,
    FIRST: tl.constexpr,  # tap
    TAPS: tl.constexpr,
    KERNEL: tl.constexpr,
    ODD: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Return a step's products: of BLOCK_C channels of a tap, or ODD columns of (TAPS, C)."""
    lane = tl.arange(0, BLOCK_C)
    if ODD:
        place = step * BLOCK_C + lane
        tap, channel = place // C, place % C
        there = tap < TAPS
    else:
        blocks = tl.cdiv(C, BLOCK_C)
        tap, channel = step // blocks, step % blocks * BLOCK_C + lane
        there = channel < C

    down = ((tap + FIRST) // KERNEL[1] - KERNEL[0] // 2) * grid.down
    across = ((tap + FIRST) % KERNEL[1] - KERNEL[1] // 2) * grid.across
    return Factors(tap, channel, there, down, across)


@triton.jit
def _moved_on(row, column, grid, BLOCK_P: tl.constexpr):
    """Return the places of pixels BLOCK_P further on in their samples, without a division."""
    column += BLOCK_P % grid.width
    beyond = column >= grid.width
    column -= tl.where(beyond, grid.width, 0)
    row += BLOCK_P // grid.width % grid.height + beyond.to(tl.int32)
    return row - tl.where(row >= grid.height, grid.height, 0), column


@triton.jit
def load_moved(
    x_ptr,
    x_stride_p,
    pixels,
    at,
    grid,
    LEAD: tl.constexpr,
    ODD: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Load what is at a distance from pixels, zeros beyond the image."""
    down, across = at.down, at.across
    if ODD:
        down, across = down[None, :], across[None, :]

    row, column = pixels.row[:, None] + down, pixels.column[:, None] + across
    # What may be far, in one wide number for the tile; what is near, in narrow ones.
    moved = pixels.first + down * grid.width + across
    lane = tl.arange(0, BLOCK_P)[:, None]
    if LEAD:
        # Signals: each is a row, and what is read has longer ones, or shorter.
        inside = (column >= -grid.lead) & (column < grid.width)
        moved += (pixels.lead + 1) * grid.lead
        # Of short signals with a long past a tile spans many, which lie far apart.
        lane = lane.to(tl.int64) + pixels.sample[:, None].to(tl.int64) * grid.lead
    else:
        inside = (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)

    mask = inside & pixels.there[:, None] & at.there[None, :]
    x_ptrs = x_ptr + moved * x_stride_p + (lane * x_stride_p + at.channel[None, :])
    return tl.load(x_ptrs, mask=mask, other=0.0)  # [BLOCK_P, BLOCK_C]


@triton.jit
def _finish(
    h,
    first_n,
    N,
    pixels,
    bias_ptr,
    residual,
    y,
    kept,
    PARTS: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """Write y of columns of a convolution, [BLOCK_P, PARTS channels]."""
    channel = first_n + tl.arange(0, h.shape[1] // PARTS)
    live = channel < N
    if PARTS == 2:
        h = gated(h, channel, live, N, pixels, bias_ptr, residual, kept, LAYOUT)
    else:
        h = added(h, channel, live, pixels, bias_ptr, residual, kept, LAYOUT)

    store(y, pixels, channel, pixels.there[:, None] & live[None, :], h, LAYOUT)


@triton.jit
def _halves(h):
    """Return the left and the right half of a tile."""
    return tl.split(tl.permute(tl.reshape(h, (h.shape[0], 2, h.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def _steps(
    n,
    last_n,
    C,
    group_n,
    group_c,
    CENTRE: tl.constexpr,
    STRICT: tl.constexpr,
    AFTER: tl.constexpr,
    ODD: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Return the steps [begin, end) that are live for some output channel of n ... last_n."""
    # At the centre the last one sees furthest, and the first one is heard from earliest.
    own = 0 if STRICT else 1
    reach = 0 if AFTER else (last_n // group_n + own) * group_c
    start = (n // group_n + (1 - own)) * group_c if AFTER else 0
    begin = start // BLOCK_C
    if ODD:
        end = tl.cdiv((CENTRE + 1) * C if AFTER else CENTRE * C + reach, BLOCK_C)
    else:
        blocks = tl.cdiv(C, BLOCK_C)
        end = (CENTRE + 1) * blocks if AFTER else CENTRE * blocks + tl.cdiv(reach, BLOCK_C)
    return begin, end


@triton.jit
def sum_over_taps(
    begin,
    end,
    operands,  # x (pixels, C), its stride; the weight (N, TAPS, C), and its two
    places,  # rows of the weight and which there are, [BLOCK_N]; pixels, grid and C
    FIRST: tl.constexpr,  # tap
    TAPS: tl.constexpr,
    KERNEL: tl.constexpr,
    LEAD: tl.constexpr,
    ODD: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCKS: tl.constexpr,  # P, N, C
):
    """Return the sum of the steps [begin, end), [BLOCK_P, BLOCK_N]."""
    x_ptr, x_stride_p, weight_ptr, weight_stride_n, weight_stride_t = operands
    row, live, pixels, grid, C = places
    weight_ptrs = weight_ptr + (row * aligned(weight_stride_n, 16))[None, :]
    weight_stride_t = aligned(weight_stride_t, 1 if ODD else 16)

    acc = tl.zeros((BLOCKS[0], BLOCKS[1]), tl.float32)
    for step in range(begin, end):
        at = factors(step, C, grid, FIRST, TAPS, KERNEL, ODD, BLOCKS[2])
        x = load_moved(x_ptr, x_stride_p, pixels, at, grid, LEAD, ODD, BLOCKS[0])
        place = at.tap * weight_stride_t + at.channel
        mask = at.there[:, None] & live[None, :]
        weight = tl.load(weight_ptrs + place[:, None], mask=mask, other=0.0)  # [BLOCK_C, BLOCK_N]
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)

    return acc


@tuned("PNC", height="pixel_bucket")
@triton.jit(do_not_specialize=["pixel_bucket"])
def product_kernel(
    x_ptr,  # (pixels, C), channels side by side
    weight_ptr,  # (PARTS N, TAPS, C), as pack_kernel leaves it
    bias_ptr,  # (PARTS N,), or None
    residual,  # images of PARTS N channels, or none
    y,  # images of N channels
    kept,  # what the gate is given, images of PARTS N channels, or none
    grid,
    C,
    N,
    group_c,  # channels of a group
    group_n,
    x_stride_p,
    weight_stride_n,
    weight_stride_t,
    columns,  # read by the tuner alone, as is pixel_bucket
    pixel_bucket,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    AFTER: tl.constexpr,  # sum over what is after a pixel, not before it
    STRICT: tl.constexpr,
    PARTS: tl.constexpr,  # 2 under a gate, 1 without
    KERNEL: tl.constexpr,  # H, W
    LEAD: tl.constexpr,  # whether the grid has a lead; images have none
    ALIGN_C: tl.constexpr,
    ALIGN_N: tl.constexpr,
    ALIGN_P: tl.constexpr,
    LAYOUT: tl.constexpr,  # what all images' strides are multiples of; whether samples are large
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    ODD: tl.constexpr = KIND == "odd"
    CENTRE: tl.constexpr = KERNEL[0] // 2 * KERNEL[1] + KERNEL[1] // 2
    C, N, x_stride_p = aligned(C, ALIGN_C), aligned(N, ALIGN_N), aligned(x_stride_p, ALIGN_C)
    # Tiles of the same pixels are beside each other, and share them through the caches.
    tiles_n = tl.cdiv(N * PARTS, BLOCK_N)
    pixels = tile_of_pixels(tl.program_id(0) // tiles_n, grid, ALIGN_P, BLOCK_P)
    first_n = tl.program_id(0) % tiles_n * (BLOCK_N // PARTS)
    last_n = tl.minimum(first_n + BLOCK_N // PARTS, N) - 1
    row = first_n * PARTS + tl.arange(0, BLOCK_N)  # of the weight
    begin, end = _steps(first_n, last_n, C, group_n, group_c, CENTRE, STRICT, AFTER, ODD, BLOCK_C)
    FIRST: tl.constexpr = CENTRE if AFTER else 0
    operands = (x_ptr, x_stride_p, weight_ptr, weight_stride_n, weight_stride_t)
    places = (row, row < N * PARTS, pixels, grid, C)
    sizes: tl.constexpr = (BLOCK_P, BLOCK_N, BLOCK_C)
    acc = sum_over_taps(
        begin, end, operands, places, FIRST, CENTRE + 1, KERNEL, LEAD, ODD, PRECISION, sizes
    )

    given = (N, pixels, bias_ptr, residual, y, kept)
    if BLOCK_N * PARTS > _AT_ONCE:
        # One quarter of the columns after the other: together they would take too many registers.
        left, right = _halves(acc)
        quarters = _halves(left) + _halves(right)
        for i in tl.static_range(4):
            n = first_n + i * (BLOCK_N // 4 // PARTS)
            _finish(quarters[i], n, *given, PARTS, LAYOUT)
    else:
        _finish(acc, first_n, *given, PARTS, LAYOUT)


@tuned("OCP", height="O")
@triton.jit(do_not_specialize=["pixel_bucket"])
def grad_weight_kernel(
    grad_ptr,  # (pixels, O), channels side by side
    x_ptr,  # (pixels, C), channels side by side
    parts_ptr,  # (pieces, O, TAPS, C): sums over the pixels of a piece
    grid,
    C,
    O,
    length,  # pixels of a piece
    grad_stride_p,
    x_stride_p,
    columns,  # read by the tuner alone, as is pixel_bucket
    pixel_bucket,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    TAPS: tl.constexpr,
    KERNEL: tl.constexpr,  # H, W
    LEAD: tl.constexpr,  # whether the grid has a lead; images have none
    ALIGN_C: tl.constexpr,
    ALIGN_O: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    ODD: tl.constexpr = KIND == "odd"
    C, x_stride_p = aligned(C, ALIGN_C), aligned(x_stride_p, ALIGN_C)
    O, grad_stride_p = aligned(O, ALIGN_O), aligned(grad_stride_p, ALIGN_O)
    # Tiles of the same pixels are beside each other, and share them through the caches.
    steps = tl.cdiv(TAPS * C, BLOCK_C) if ODD else TAPS * tl.cdiv(C, BLOCK_C)
    tiles_o = tl.cdiv(O, BLOCK_O)
    o = tl.program_id(0) // steps % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)
    piece = tl.program_id(0) // (steps * tiles_o)
    at = factors(tl.program_id(0) % steps, C, grid, 0, TAPS, KERNEL, ODD, BLOCK_C)

    total = tl.cast(grid.samples, tl.int64) * grid.height * grid.width
    start = tl.cast(piece, tl.int64) * length
    count = tl.cast(tl.minimum(total - start, length), tl.int32)
    pixels = pixels_from(start, start + count, grid, 1, BLOCK_P)
    lane = tl.arange(0, BLOCK_P)
    grad_place = (lane * grad_stride_p)[None, :] + o[:, None]
    acc = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    row, column, sample = pixels.row, pixels.column, pixels.sample
    for done in range(0, count, BLOCK_P):
        first, there = start + done, lane < count - done
        if LEAD:
            place = pixels.column + done
            sample, column = pixels.sample + place // grid.width, place % grid.width

        mask = (o < O)[:, None] & there[None, :]
        grad = tl.load(grad_ptr + first * grad_stride_p + grad_place, mask=mask, other=0.0)
        moved = Pixels(first, pixels.lead, sample, pixels.place, row, column, there)
        x = load_moved(x_ptr, x_stride_p, moved, at, grid, LEAD, ODD, BLOCK_P)
        acc = tl.dot(grad, x, acc, input_precision=PRECISION)
        if not LEAD:
            row, column = _moved_on(row, column, grid, BLOCK_P)

    place = piece.to(tl.int64) * O * TAPS * C + (at.tap * C + at.channel)[None, :]
    mask = (o < O)[:, None] & at.there[None, :]
    tl.store(parts_ptr + place + (o * TAPS * C)[:, None], acc, mask=mask)
