"""Triton kernels of `masked_linear`: products that stop where the staircase does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import Autotuner

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.precision import products_in_tf32
from dgm_fast._core.triton_compile import AotKernel
from dgm_fast.ops.masked_linear.tiles import aot_configs, tuned

# Tiles of one group run at the same time and share the other operand through the L2 cache.
_GROUP = tl.constexpr(8)


@triton.jit
def _tile_of(program, tiles_m, tiles_n):
    """Return (m, n) of a program: `_GROUP` tiles of m at a time, for every n."""
    per_group = _GROUP * tiles_n
    first = program // per_group * _GROUP
    size = tl.minimum(tiles_m - first, _GROUP)
    return first + program % per_group % size, program % per_group // size


@triton.jit
def _accumulate(
    acc,
    a_ptrs,
    b_ptrs,
    a_stride,
    b_stride,
    start,
    stop,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add whole blocks of a @ b over [start, stop), unmasked."""
    # Pointers are made anew for each block: carried through the loop, they take more registers
    # than the sums.
    for k in range(start, stop, BLOCK):
        a = tl.load(a_ptrs + tl.cast(k, tl.int64) * a_stride)
        b = tl.load(b_ptrs + tl.cast(k, tl.int64) * b_stride)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    return acc


@tuned("BOI")
@triton.jit(do_not_specialize=["batch_bucket"])
def forward_kernel(
    x_ptr,  # (B, I), any strides
    weight_ptr,  # (O, I), any strides
    bias_ptr,  # (O,) or None
    row_bound_ptr,  # (O,), nondecreasing
    y_ptr,  # (B, O)
    B,
    I,
    O,
    x_stride_b,
    x_stride_i,
    weight_stride_o,
    weight_stride_i,
    batch_bucket,  # read by the tuner alone, as is KIND
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    tiles_b, tiles_o = tl.cdiv(B, BLOCK_B), tl.cdiv(O, BLOCK_O)
    tile_o, tile_b = _tile_of(tl.program_id(0), tiles_o, tiles_b)
    # The last rows reach furthest; started first, they do not finish alone.
    first_o = (tiles_o - 1 - tile_o) * BLOCK_O
    b = tile_b * BLOCK_B + tl.arange(0, BLOCK_B)
    o = first_o + tl.arange(0, BLOCK_O)
    i = tl.arange(0, BLOCK_I)
    i_wide = i.to(tl.int64)

    # Rows and columns past the end wrap around: they are computed and not stored.
    safe_b, safe_o = (b % B).to(tl.int64), (o % O).to(tl.int64)
    x_ptrs = x_ptr + safe_b[:, None] * x_stride_b + i_wide[None, :] * x_stride_i
    weight_ptrs = weight_ptr + i_wide[:, None] * weight_stride_i + safe_o[None, :] * weight_stride_o

    # Every row of the tile reaches the leading blocks, so they need no mask.
    bound = tl.load(row_bound_ptr + safe_o)
    whole = tl.load(row_bound_ptr + first_o) // BLOCK_I * BLOCK_I
    reach = tl.load(row_bound_ptr + tl.minimum(first_o + BLOCK_O, O) - 1)
    acc = tl.zeros((BLOCK_B, BLOCK_O), tl.float32)
    acc = _accumulate(
        acc, x_ptrs, weight_ptrs, x_stride_i, weight_stride_i, 0, whole, BLOCK_I, PRECISION
    )

    # Loads are masked by a size, which keeps them 16 bytes wide; the stairs are cut in registers.
    for first_i in range(whole, reach, BLOCK_I):
        column = first_i + i
        step = tl.cast(first_i, tl.int64)
        x = tl.load(x_ptrs + step * x_stride_i, mask=column[None, :] < I, other=0.0)
        weight = tl.load(weight_ptrs + step * weight_stride_i, mask=column[:, None] < I, other=0.0)
        weight = tl.where(column[:, None] < bound[None, :], weight, 0.0)  # [BLOCK_I, BLOCK_O]
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)

    if bias_ptr is not None:
        acc += tl.load(bias_ptr + safe_o).to(tl.float32)[None, :]

    y_ptrs = y_ptr + b[:, None].to(tl.int64) * O + o[None, :]
    y = acc.to(y_ptr.dtype.element_ty)
    tl.store(y_ptrs, y, mask=(b[:, None] < B) & (o[None, :] < O))


@tuned("BIO")
@triton.jit(do_not_specialize=["batch_bucket"])
def grad_x_kernel(
    grad_y_ptr,  # (B, O), any strides
    weight_ptr,  # (O, I), any strides
    column_start_ptr,  # (I,), nondecreasing
    grad_x_ptr,  # (B, I)
    B,
    I,
    O,
    grad_y_stride_b,
    grad_y_stride_o,
    weight_stride_o,
    weight_stride_i,
    batch_bucket,  # read by the tuner alone, as is KIND
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    tiles_b, tiles_i = tl.cdiv(B, BLOCK_B), tl.cdiv(I, BLOCK_I)
    # The first columns are reached by the most rows, and start first.
    tile_i, tile_b = _tile_of(tl.program_id(0), tiles_i, tiles_b)
    first_i = tile_i * BLOCK_I
    b = tile_b * BLOCK_B + tl.arange(0, BLOCK_B)
    i = first_i + tl.arange(0, BLOCK_I)
    safe_b, safe_i = (b % B).to(tl.int64), (i % I).to(tl.int64)

    o = tl.arange(0, BLOCK_O)
    o_wide = o.to(tl.int64)

    # Blocks are laid from the last row backwards, so that only those on the staircase need a mask.
    start = tl.load(column_start_ptr + safe_i)
    reach = tl.load(column_start_ptr + first_i)
    full = O - tl.load(column_start_ptr + tl.minimum(first_i + BLOCK_I, I) - 1)
    whole = O - full // BLOCK_O * BLOCK_O
    first = whole - tl.cdiv(whole - reach, BLOCK_O) * BLOCK_O

    grad_y_ptrs = grad_y_ptr + safe_b[:, None] * grad_y_stride_b + o_wide[None, :] * grad_y_stride_o
    weight_ptrs = weight_ptr + o_wide[:, None] * weight_stride_o + safe_i[None, :] * weight_stride_i
    acc = tl.zeros((BLOCK_B, BLOCK_I), tl.float32)

    for first_o in range(first, whole, BLOCK_O):
        row = first_o + o
        step = tl.cast(first_o, tl.int64)
        grad_y = tl.load(grad_y_ptrs + step * grad_y_stride_o, mask=row[None, :] >= 0, other=0.0)
        weight = tl.load(weight_ptrs + step * weight_stride_o, mask=row[:, None] >= 0, other=0.0)
        weight = tl.where(row[:, None] >= start[None, :], weight, 0.0)  # [BLOCK_O, BLOCK_I]
        acc = tl.dot(grad_y, weight, acc, input_precision=PRECISION)

    acc = _accumulate(
        acc,
        grad_y_ptrs,
        weight_ptrs,
        grad_y_stride_o,
        weight_stride_o,
        whole,
        O,
        BLOCK_O,
        PRECISION,
    )

    grad_x_ptrs = grad_x_ptr + b[:, None].to(tl.int64) * I + i[None, :]
    grad_x = acc.to(grad_x_ptr.dtype.element_ty)
    tl.store(grad_x_ptrs, grad_x, mask=(b[:, None] < B) & (i[None, :] < I))


@tuned("OIB")
@triton.jit(do_not_specialize=["batch_bucket"])
def grad_weight_kernel(
    grad_y_ptr,  # (B, O), any strides
    x_ptr,  # (B, I), any strides
    row_bound_ptr,  # (O,), nondecreasing
    grad_weight_ptr,  # (O, I)
    B,
    I,
    O,
    grad_y_stride_b,
    grad_y_stride_o,
    x_stride_b,
    x_stride_i,
    batch_bucket,  # read by the tuner alone, as is KIND
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    tile_o, tile_i = _tile_of(tl.program_id(0), tl.cdiv(O, BLOCK_O), tl.cdiv(I, BLOCK_I))
    first_o, first_i = tile_o * BLOCK_O, tile_i * BLOCK_I
    o = first_o + tl.arange(0, BLOCK_O)
    i = first_i + tl.arange(0, BLOCK_I)
    b = tl.arange(0, BLOCK_B)
    b_wide = b.to(tl.int64)
    safe_o, safe_i = (o % O).to(tl.int64), (i % I).to(tl.int64)

    # A dead tile sums over no sample: its zeros are all it writes.
    is_live = tl.load(row_bound_ptr + tl.minimum(first_o + BLOCK_O, O) - 1) > first_i
    samples = tl.where(is_live, B, 0)
    whole = samples // BLOCK_B * BLOCK_B

    grad_y_ptrs = grad_y_ptr + safe_o[:, None] * grad_y_stride_o + b_wide[None, :] * grad_y_stride_b
    x_ptrs = x_ptr + b_wide[:, None] * x_stride_b + safe_i[None, :] * x_stride_i
    acc = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    acc = _accumulate(
        acc, grad_y_ptrs, x_ptrs, grad_y_stride_b, x_stride_b, 0, whole, BLOCK_B, PRECISION
    )

    for first_b in range(whole, samples, BLOCK_B):
        sample = first_b + b
        step = tl.cast(first_b, tl.int64)
        grad_y = tl.load(grad_y_ptrs + step * grad_y_stride_b, mask=sample[None, :] < B, other=0.0)
        x = tl.load(x_ptrs + step * x_stride_b, mask=sample[:, None] < B, other=0.0)
        acc = tl.dot(grad_y, x, acc, input_precision=PRECISION)

    bound = tl.load(row_bound_ptr + safe_o)
    acc = tl.where(i[None, :] < bound[:, None], acc, 0.0)
    grad_weight_ptrs = grad_weight_ptr + o[:, None].to(tl.int64) * I + i[None, :]
    grad_weight = acc.to(grad_weight_ptr.dtype.element_ty)
    tl.store(grad_weight_ptrs, grad_weight, mask=(o[:, None] < O) & (i[None, :] < I))


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_bound: Tensor,
    column_start: Tensor,
    row_order: Tensor | None,
    column_order: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Return `x (weight * mask)^T + bias`, (B, O)."""
    (B, I), O = x.shape, weight.shape[0]
    weight = _sorted_weight(weight, row_order, column_order, mask)
    x = _sorted(x, 1, column_order)
    bias = None if bias is None else _sorted(bias, 0, row_order)
    y = x.new_empty(B, O)

    tensors = (x, weight, bias, row_bound, y)
    _launch(forward_kernel, "BO", tensors, {"B": B, "I": I, "O": O}, (x, weight))
    return _unsorted(y, 1, row_order)


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    row_bound: Tensor,
    column_start: Tensor,
    row_order: Tensor | None,
    column_order: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; one that is not needed is empty."""
    grad_x, grad_weight, grad_bias = (x.new_empty(0) for _ in range(3))

    if needs[2]:
        grad_bias = grad_y.sum(0, dtype=torch.float32).to(grad_y.dtype)

    grad_y = _sorted(grad_y, 1, row_order) if needs[0] or needs[1] else grad_y
    if needs[0]:
        weight_sorted = _sorted_weight(weight, row_order, column_order, mask)
        grad_x = _grad_x(grad_y, weight_sorted, column_start)
        grad_x = _unsorted(grad_x, 1, column_order)

    if needs[1]:
        grad_weight = _grad_weight(grad_y, _sorted(x, 1, column_order), row_bound)
        grad_weight = _unsorted(_unsorted(grad_weight, 1, column_order), 0, row_order)
        if mask is not None:
            grad_weight.masked_fill_(~mask, 0.0)

    return grad_x, grad_weight, grad_bias


def _grad_x(grad_y: Tensor, weight: Tensor, column_start: Tensor) -> Tensor:
    (B, O), I = grad_y.shape, weight.shape[1]
    grad_x = grad_y.new_empty(B, I)

    tensors = (grad_y, weight, column_start, grad_x)
    _launch(grad_x_kernel, "BI", tensors, {"B": B, "I": I, "O": O}, (grad_y, weight))
    return grad_x


def _grad_weight(grad_y: Tensor, x: Tensor, row_bound: Tensor) -> Tensor:
    (B, O), I = grad_y.shape, x.shape[1]
    grad_weight = grad_y.new_empty(O, I)

    tensors = (grad_y, x, row_bound, grad_weight)
    _launch(grad_weight_kernel, "OI", tensors, {"B": B, "I": I, "O": O}, (grad_y, x))
    return grad_weight


def _launch(
    kernel: Autotuner,
    output: str,
    tensors: tuple[Tensor | None, ...],
    sizes: dict[str, int],
    operands: tuple[Tensor, Tensor],
) -> None:
    """Run a kernel over the tiles of its output, whose dims `output` names."""
    if 0 in (sizes[dim] for dim in output):
        return

    def grid(blocks: dict[str, int]) -> tuple[int]:
        return (math.prod(ceil_div(sizes[dim], blocks[f"BLOCK_{dim}"]) for dim in output),)

    strides = (*operands[0].stride(), *operands[1].stride())
    bucket = next_power_of_2(sizes["B"])
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, *sizes.values(), *strides, bucket, *_arithmetic(operands))


def _arithmetic(operands: tuple[Tensor, Tensor]) -> tuple[str, str]:
    """Return the kind of tiles that suits two operands, and how their products are taken."""
    # float32 is multiplied as torch's own matmul would.
    precision = "tf32" if operands[0].is_cuda and products_in_tf32() else "ieee"

    # One dim is contiguous, and its rows start on multiples of 16 elements.
    if not all(min(each.stride()) == 1 and max(each.stride()) % 16 == 0 for each in operands):
        return "odd", precision

    return "16" if operands[0].element_size() == 2 else precision, precision


def _sorted_weight(
    weight: Tensor, row_order: Tensor | None, column_order: Tensor | None, mask: Tensor | None
) -> Tensor:
    # Kernels know only staircases. An irregular mask is applied here, one pass over the weight,
    # rather than in the sums, where every tile of the batch would read it anew.
    if mask is not None:
        weight = torch.where(mask, weight, 0.0)

    return _sorted(_sorted(weight, 0, row_order), 1, column_order)


def _sorted(tensor: Tensor, dim: int, order: Tensor | None) -> Tensor:
    # A gather costs one pass over an operand, about 1 / (2 width) of the product's arithmetic;
    # indices inside the kernel would break every 16-byte load of the inner loop into 2-byte ones.
    return tensor if order is None else tensor.index_select(dim, order)


def _unsorted(tensor: Tensor, dim: int, order: Tensor | None) -> Tensor:
    if order is None:
        return tensor

    return torch.empty_like(tensor).index_copy_(dim, order.long(), tensor)


def _aot_kernels() -> Iterator[AotKernel]:
    dtypes = {"16": ("bf16", "fp16"), "ieee": ("fp32",), "tf32": ("fp32",)}
    tuners = ((forward_kernel, "BOI"), (grad_x_kernel, "BIO"), (grad_weight_kernel, "OIB"))

    for (tuner, blocks), kind, odd in itertools.product(tuners, dtypes, (False, True)):
        for dtype in dtypes[kind]:
            precision = "tf32" if kind == "tf32" else "ieee"
            name = "-".join((tuner.fn.__name__, dtype, *["tf32"] * (precision == "tf32")))
            yield AotKernel(
                name + "-odd" * odd,
                tuner.fn,
                _signature(tuner.fn, dtype),
                {**_INNER_STRIDES, "PRECISION": precision, "KIND": "odd" if odd else kind},
                partial(aot_configs, blocks, kind, odd),
                aligned=not odd,
            )


# Rows of every operand are contiguous at nearly every call.
_INNER_STRIDES = {"x_stride_i": 1, "weight_stride_i": 1, "grad_y_stride_o": 1}


def _signature(kernel: triton.JITFunction, dtype: str) -> dict[str, str]:
    types = {"row_bound_ptr": "*i32", "column_start_ptr": "*i32"}
    return {
        name: types.get(name, f"*{dtype}" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in _INNER_STRIDES and not name.startswith(("BLOCK", "KIND", "PRECISION"))
    }


AOT_KERNELS = tuple(_aot_kernels())
