"""The forward and the backward pass of affine coupling as Triton kernels.

With f = s, or 1 / s where inverse, both orders and directions are y = (x + t) f or x f + t, with -t
for t where inverse: `BEFORE` says that the shift comes before the product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgm_fast.ops.affine_coupling.triton_maps import factor_and_log_scale, factor_and_slope


@triton.jit
def _place(program, pieces, elements, BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr):
    """Return the rows of a program, [BLOCK_B, 1], and the elements [begin, end) of its piece."""
    row = (program // pieces).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    length = tl.cdiv(tl.cdiv(elements, BLOCK_E), pieces) * BLOCK_E
    begin = program % pieces * length
    return row, begin, tl.minimum(elements, begin + length)


@triton.jit
def _load(ptr, stride_b, stride_c, row, element, live, inner, TOUCH: tl.constexpr):
    """Load elements of lines in float32, or zeros where there is no tensor."""
    if ptr is None:
        values = tl.zeros(live.shape, tl.float32)
    elif TOUCH:
        values = tl.load(ptr + row * stride_b + element, mask=live, other=0.0).to(tl.float32)
    else:
        place = (element // inner).to(tl.int64) * stride_c + element % inner
        values = tl.load(ptr + row * stride_b + place, mask=live, other=0.0).to(tl.float32)

    return values


@triton.jit
def _store(ptr, stride_b, row, element, live, values):
    """Store elements of a contiguous sample, where there is a tensor."""
    if ptr is not None:
        values = values.to(ptr.dtype.element_ty)
        tl.store(ptr + row * stride_b + element, values, mask=live)


@triton.jit
def _copy(
    from_ptr,
    from_stride_b,
    from_stride_c,
    to_ptr,
    to_stride_b,
    samples,
    still,
    inner,
    pieces,
    TOUCH: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Copy what stays as it is."""
    row, begin, end = _place(tl.program_id(0), pieces, still, BLOCK_B, BLOCK_E)
    for first in range(begin, end, BLOCK_E):
        element = first + tl.arange(0, BLOCK_E)[None, :]
        live = (row < samples) & (element < still)
        values = _load(from_ptr, from_stride_b, from_stride_c, row, element, live, inner, TOUCH)
        _store(to_ptr, to_stride_b, row, element, live, values)


@triton.jit
def forward_kernel(
    x_ptr,  # (B, T, S), lines of S contiguous elements, as are all that are read
    x_still_ptr,  # (B, C - T, S), or None
    log_scale_ptr,  # (B, T, S), or None
    shift_ptr,  # (B, T, S)
    mask_ptr,  # (T, S), or None
    y_ptr,  # (B, T, S), samples contiguous
    y_still_ptr,  # (B, C - T, S), or None
    sums_ptr,  # (B, pieces)
    samples,
    moved,  # T * S
    still,  # (C - T) * S
    inner,  # S
    pieces,
    x_stride_b,
    x_stride_c,
    log_scale_stride_b,
    log_scale_stride_c,
    shift_stride_b,
    shift_stride_c,
    y_stride_b,
    bound,
    min_scale,
    MAP: tl.constexpr,
    HAS_MIN: tl.constexpr,
    BEFORE: tl.constexpr,
    INVERSE: tl.constexpr,
    TOUCH: tl.constexpr,  # no gaps between lines
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    if y_still_ptr is not None:
        _copy(
            x_still_ptr,
            x_stride_b,
            x_stride_c,
            y_still_ptr,
            y_stride_b,
            samples,
            still,
            inner,
            pieces,
            TOUCH,
            BLOCK_B,
            BLOCK_E,
        )

    row, begin, end = _place(tl.program_id(0), pieces, moved, BLOCK_B, BLOCK_E)
    sums = tl.zeros((BLOCK_B, BLOCK_E), tl.float32)
    for first in range(begin, end, BLOCK_E):
        element = first + tl.arange(0, BLOCK_E)[None, :]
        live = (row < samples) & (element < moved)  # [BLOCK_B, BLOCK_E]
        x = _load(x_ptr, x_stride_b, x_stride_c, row, element, live, inner, TOUCH)
        t = _load(shift_ptr, shift_stride_b, shift_stride_c, row, element, live, inner, TOUCH)
        u = _load(
            log_scale_ptr, log_scale_stride_b, log_scale_stride_c, row, element, live, inner, TOUCH
        )

        t = -t if INVERSE else t
        factor, log_s = factor_and_log_scale(u, bound, min_scale, MAP, HAS_MIN, INVERSE)
        y = (x + t) * factor if BEFORE else x * factor + t
        if mask_ptr is not None:
            kept = tl.load(mask_ptr + element, mask=live, other=1) != 0
            y = tl.where(kept, x, y)
            log_s = tl.where(kept, 0.0, log_s)

        _store(y_ptr, y_stride_b, row, element, live, y)
        sums += tl.where(live, log_s, 0.0)

    log_det = tl.sum(-sums if INVERSE else sums, axis=1)[:, None]
    tl.store(sums_ptr + row * pieces + tl.program_id(0) % pieces, log_det, mask=row < samples)


@triton.jit
def backward_kernel(
    grad_y_ptr,  # (B, T, S), or None
    grad_y_still_ptr,  # (B, C - T, S), or None
    grad_log_det_ptr,  # (B,), or None
    x_ptr,  # (B, T, S), as in the forward
    log_scale_ptr,
    shift_ptr,
    mask_ptr,
    grad_x_ptr,  # (B, T, S), samples contiguous, or None, as are all that are written
    grad_x_still_ptr,  # (B, C - T, S)
    grad_log_scale_ptr,
    grad_shift_ptr,
    samples,
    moved,  # T * S
    still,  # (C - T) * S
    inner,  # S
    pieces,
    grad_y_stride_b,
    grad_y_stride_c,
    grad_log_det_stride,
    x_stride_b,
    x_stride_c,
    log_scale_stride_b,
    log_scale_stride_c,
    shift_stride_b,
    shift_stride_c,
    grad_x_stride_b,
    bound,
    min_scale,
    MAP: tl.constexpr,
    HAS_MIN: tl.constexpr,
    BEFORE: tl.constexpr,
    INVERSE: tl.constexpr,
    TOUCH: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    if grad_x_still_ptr is not None:
        _copy(
            grad_y_still_ptr,
            grad_y_stride_b,
            grad_y_stride_c,
            grad_x_still_ptr,
            grad_x_stride_b,
            samples,
            still,
            inner,
            pieces,
            TOUCH,
            BLOCK_B,
            BLOCK_E,
        )

    row, begin, end = _place(tl.program_id(0), pieces, moved, BLOCK_B, BLOCK_E)
    of_sum = tl.zeros((BLOCK_B, 1), tl.float32)
    if grad_log_det_ptr is not None:
        of_sum += tl.load(grad_log_det_ptr + row * grad_log_det_stride, mask=row < samples, other=0)

    for first in range(begin, end, BLOCK_E):
        element = first + tl.arange(0, BLOCK_E)[None, :]
        live = (row < samples) & (element < moved)  # [BLOCK_B, BLOCK_E]
        g = _load(grad_y_ptr, grad_y_stride_b, grad_y_stride_c, row, element, live, inner, TOUCH)
        u = _load(
            log_scale_ptr, log_scale_stride_b, log_scale_stride_c, row, element, live, inner, TOUCH
        )
        factor, slope = factor_and_slope(u, bound, min_scale, MAP, HAS_MIN, INVERSE)
        gf = g * factor
        grad_x, grad_t = gf, gf if BEFORE else g

        # Reads nothing where there is no gradient to write.
        wanted = live if grad_log_scale_ptr is not None else live & False
        x = _load(x_ptr, x_stride_b, x_stride_c, row, element, wanted, inner, TOUCH)
        if BEFORE:
            t = _load(shift_ptr, shift_stride_b, shift_stride_c, row, element, wanted, inner, TOUCH)
            x += -t if INVERSE else t
        grad_u = (gf * x + of_sum) * slope

        if mask_ptr is not None:
            kept = tl.load(mask_ptr + element, mask=live, other=1) != 0
            grad_x = tl.where(kept, g, grad_x)
            grad_t = tl.where(kept, 0.0, grad_t)
            grad_u = tl.where(kept, 0.0, grad_u)

        _store(grad_x_ptr, grad_x_stride_b, row, element, live, grad_x)
        _store(grad_shift_ptr, moved, row, element, live, -grad_t if INVERSE else grad_t)
        _store(grad_log_scale_ptr, moved, row, element, live, -grad_u if INVERSE else grad_u)
