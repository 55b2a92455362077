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
from dgm_fast._core.triton_math import exp, sigmoid, tanh
from dgm_fast.ops.masked_conv2d.tiles import tuned

# Columns of a tile, each as often as a gate has parts, that are finished at once.
_AT_ONCE = tl.constexpr(64 if interpreting() else 256)


class Images(NamedTuple):
    """Images (B, C, P), or none."""

    ptr: Any
    stride_b: Any
    stride_c: Any
    stride_p: Any


class Grid(NamedTuple):
    """B, H and W."""

    samples: Any
    height: Any
    width: Any


class Pixels(NamedTuple):
    """Pixels one after another, of all samples."""

    first: Any  # their number, int64
    lead: Any  # the first one's sample, int64
    sample: Any  # [BLOCK_P], counted from there
    place: Any  # [BLOCK_P], in the sample
    row: Any  # [BLOCK_P]
    column: Any  # [BLOCK_P]
    there: Any  # [BLOCK_P], whether they are in this tile's share


class Factors(NamedTuple):
    """Where the products of a block read, each from its tap and channel."""

    tap: Any  # one of all, or [BLOCK_C]
    channel: Any  # [BLOCK_C]
    there: Any  # [BLOCK_C]
    down: Any  # how far from the pixel, as tap
    across: Any


@triton.jit
def _aligned(size, ALIGN: tl.constexpr):
    """Return a multiple of ALIGN, which the compiler now sees to be one."""
    return size // ALIGN * ALIGN


@triton.jit
def _pixels_from(first, stop, grid, ALIGN_P: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return the pixels [first, first + BLOCK_P), there below `stop`."""
    lane = tl.arange(0, BLOCK_P)
    # One division of wide integers for the tile, of narrow ones for its pixels.
    pixels = _aligned(grid.height * grid.width, ALIGN_P)
    place = _aligned(tl.cast(first % pixels, tl.int32), ALIGN_P) + lane
    sample, place = place // pixels, place % pixels
    row, column = place // grid.width, place % grid.width
    return Pixels(first, first // pixels, sample, place, row, column, first + lane < stop)


@triton.jit
def _tile_of_pixels(tile, grid, ALIGN_P: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return a tile's pixels, of all there are."""
    pixels = _aligned(grid.height * grid.width, ALIGN_P)
    stop = tl.cast(grid.samples, tl.int64) * pixels
    return _pixels_from(tl.cast(tile, tl.int64) * BLOCK_P, stop, grid, ALIGN_P, BLOCK_P)


@triton.jit
def _factors(
    step,
    C,
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

    down = ((tap + FIRST) // KERNEL[1] - KERNEL[0] // 2) * KERNEL[2]
    across = ((tap + FIRST) % KERNEL[1] - KERNEL[1] // 2) * KERNEL[3]
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
def _load_moved(x_ptr, x_stride_p, pixels, factors, grid, ODD: tl.constexpr, BLOCK_P: tl.constexpr):
    """Load what is at the factors' distance from pixels, zeros beyond the image."""
    down, across = factors.down, factors.across
    if ODD:
        down, across = down[None, :], across[None, :]

    row, column = pixels.row[:, None] + down, pixels.column[:, None] + across
    inside = (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)
    mask = inside & pixels.there[:, None] & factors.there[None, :]
    # What may be far, in one wide number for the tile; what is near, in narrow ones.
    moved = pixels.first + down * grid.width + across
    lane = tl.arange(0, BLOCK_P)[:, None]
    x_ptrs = x_ptr + moved * x_stride_p + (lane * x_stride_p + factors.channel[None, :])
    return tl.load(x_ptrs, mask=mask, other=0.0)  # [BLOCK_P, BLOCK_C]


@triton.jit
def _ptrs(images, pixels, channel, LAYOUT: tl.constexpr):
    """Return where channels of pixels lie, [BLOCK_P, channels]."""
    sample, place = pixels.sample, pixels.place
    if LAYOUT[3]:
        sample, place, channel = sample.to(tl.int64), place.to(tl.int64), channel.to(tl.int64)

    # What may be far, in one wide number for the tile.
    stride_b = _aligned(images.stride_b, LAYOUT[0])
    start = images.ptr + pixels.lead * stride_b
    place = sample * stride_b + place * _aligned(images.stride_p, LAYOUT[2])
    return start + (place[:, None] + (channel * _aligned(images.stride_c, LAYOUT[1]))[None, :])


@triton.jit
def _load(images, pixels, channel, mask, LAYOUT: tl.constexpr):
    values = tl.load(_ptrs(images, pixels, channel, LAYOUT), mask=mask, other=0.0)
    return values.to(tl.float32)


@triton.jit
def _store(images, pixels, channel, mask, values, LAYOUT: tl.constexpr):
    values = values.to(images.ptr.dtype.element_ty)
    tl.store(_ptrs(images, pixels, channel, LAYOUT), values, mask=mask)


@triton.jit
def _added(h, channel, live, pixels, bias_ptr, residual, kept, LAYOUT: tl.constexpr):
    """Add what is added to a convolution, and keep the sum for the backward."""
    mask = pixels.there[:, None] & live[None, :]
    if bias_ptr is not None:
        h += tl.load(bias_ptr + channel, mask=live, other=0.0).to(tl.float32)[None, :]
    if residual.ptr is not None:
        h += _load(residual, pixels, channel, mask, LAYOUT)
    if kept.ptr is not None:
        _store(kept, pixels, channel, mask, h, LAYOUT)
    return h


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
        # The weight's rows come in pairs, so that both of a pair are in one thread's registers.
        a, b = tl.split(tl.reshape(h, (h.shape[0], h.shape[1] // 2, 2)))
        a = _added(a, channel, live, pixels, bias_ptr, residual, kept, LAYOUT)
        b = _added(b, channel + N, live, pixels, bias_ptr, residual, kept, LAYOUT)
        h = tanh(a) * sigmoid(b)
    else:
        h = _added(h, channel, live, pixels, bias_ptr, residual, kept, LAYOUT)

    _store(y, pixels, channel, pixels.there[:, None] & live[None, :], h, LAYOUT)


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
    KERNEL: tl.constexpr,  # H, W and their dilations
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
    C, N, x_stride_p = _aligned(C, ALIGN_C), _aligned(N, ALIGN_N), _aligned(x_stride_p, ALIGN_C)
    # Tiles of the same pixels are beside each other, and share them through the caches.
    tiles_n = tl.cdiv(N * PARTS, BLOCK_N)
    pixels = _tile_of_pixels(tl.program_id(0) // tiles_n, grid, ALIGN_P, BLOCK_P)
    first_n = tl.program_id(0) % tiles_n * (BLOCK_N // PARTS)
    last_n = tl.minimum(first_n + BLOCK_N // PARTS, N) - 1
    row = first_n * PARTS + tl.arange(0, BLOCK_N)  # of the weight
    weight_ptrs = weight_ptr + (row * _aligned(weight_stride_n, 16))[None, :]
    weight_stride_t = _aligned(weight_stride_t, 1 if ODD else 16)

    acc = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    begin, end = _steps(first_n, last_n, C, group_n, group_c, CENTRE, STRICT, AFTER, ODD, BLOCK_C)
    for step in range(begin, end):
        factors = _factors(step, C, CENTRE if AFTER else 0, CENTRE + 1, KERNEL, ODD, BLOCK_C)
        x = _load_moved(x_ptr, x_stride_p, pixels, factors, grid, ODD, BLOCK_P)
        place = factors.tap * weight_stride_t + factors.channel
        mask = factors.there[:, None] & (row < N * PARTS)[None, :]
        weight = tl.load(weight_ptrs + place[:, None], mask=mask, other=0.0)  # [BLOCK_C, BLOCK_N]
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)

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
    KERNEL: tl.constexpr,  # H, W and their dilations
    ALIGN_C: tl.constexpr,
    ALIGN_O: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    ODD: tl.constexpr = KIND == "odd"
    C, x_stride_p = _aligned(C, ALIGN_C), _aligned(x_stride_p, ALIGN_C)
    O, grad_stride_p = _aligned(O, ALIGN_O), _aligned(grad_stride_p, ALIGN_O)
    # Tiles of the same pixels are beside each other, and share them through the caches.
    steps = tl.cdiv(TAPS * C, BLOCK_C) if ODD else TAPS * tl.cdiv(C, BLOCK_C)
    tiles_o = tl.cdiv(O, BLOCK_O)
    o = tl.program_id(0) // steps % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)
    piece = tl.program_id(0) // (steps * tiles_o)
    factors = _factors(tl.program_id(0) % steps, C, 0, TAPS, KERNEL, ODD, BLOCK_C)

    total = tl.cast(grid.samples, tl.int64) * grid.height * grid.width
    start = tl.cast(piece, tl.int64) * length
    count = tl.cast(tl.minimum(total - start, length), tl.int32)
    pixels = _pixels_from(start, start + count, grid, 1, BLOCK_P)
    lane = tl.arange(0, BLOCK_P)
    grad_place = (lane * grad_stride_p)[None, :] + o[:, None]
    acc = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    row, column = pixels.row, pixels.column
    for done in range(0, count, BLOCK_P):
        first, there = start + done, lane < count - done
        mask = (o < O)[:, None] & there[None, :]
        grad = tl.load(grad_ptr + first * grad_stride_p + grad_place, mask=mask, other=0.0)
        moved = Pixels(first, pixels.lead, pixels.sample, pixels.place, row, column, there)
        x = _load_moved(x_ptr, x_stride_p, moved, factors, grid, ODD, BLOCK_P)
        acc = tl.dot(grad, x, acc, input_precision=PRECISION)
        row, column = _moved_on(row, column, grid, BLOCK_P)

    place = piece.to(tl.int64) * O * TAPS * C + (factors.tap * C + factors.channel)[None, :]
    mask = (o < O)[:, None] & factors.there[None, :]
    tl.store(parts_ptr + place + (o * TAPS * C)[:, None], acc, mask=mask)


@triton.jit
def gate_backward_kernel(
    grad_y,  # images of C channels
    kept,  # images of 2 C channels
    grad,  # images of 2 C channels
    grid,
    C,
    ALIGN_C: tl.constexpr,
    ALIGN_P: tl.constexpr,
    LAYOUT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    C = _aligned(C, ALIGN_C)
    tiles_c = tl.cdiv(C, BLOCK_C)
    pixels = _tile_of_pixels(tl.program_id(0) // tiles_c, grid, ALIGN_P, BLOCK_P)
    channel = tl.program_id(0) % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = pixels.there[:, None] & (channel < C)[None, :]  # [BLOCK_P, BLOCK_C]

    a = _load(kept, pixels, channel, mask, LAYOUT)
    b = _load(kept, pixels, channel + C, mask, LAYOUT)
    above = _load(grad_y, pixels, channel, mask, LAYOUT)

    # 1 - tanh^2 a = 4 e / (1 + e)^2 with e = exp(-2 |a|) keeps its digits where tanh is near 1.
    e = exp(-2.0 * tl.abs(a))
    over = 1.0 / (1.0 + e)
    s = sigmoid(b)
    grad_a = above * s * (4.0 * e * over * over)
    grad_b = above * tanh(a) * s * sigmoid(-b)
    _store(grad, pixels, channel, mask, grad_a, LAYOUT)
    _store(grad, pixels, channel + C, mask, grad_b, LAYOUT)
