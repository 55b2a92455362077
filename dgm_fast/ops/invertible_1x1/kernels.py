"""Launch the Triton kernels of invertible 1x1 convolutions.

Both directions and their adjoints are products of a matrix with the pixels: a matrix of C x C
numbers is inverted once a call, in float64, and not solved with at every pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from dgm_fast._core.integers import ceil_div, next_power_of_2
from dgm_fast._core.triton_compile import AotKernel, programs
from dgm_fast.ops.invertible_1x1.triton_matrices import (
    factors_backward_kernel,
    fold_backward_kernel,
    fold_kernel,
    log_det_kernel,
)
from dgm_fast.ops.invertible_1x1.triton_passes import product_kernel, sums_kernel

# Sums over pixels are cut until there are this many programs, two on each of a large GPU's
# processors. The cuts follow from the sizes alone, and pieces are added in their order: bits are
# the same every time.
_PROGRAMS = programs(256)
_SQUARE = 32  # rows and columns of a tile of the matrix
_FACTORS_WARPS = 8  # 4 would take every register
_SAMPLES = 256  # log-determinants of a program


def forward(
    x: Tensor,
    matrix: Tensor,
    log_diag: Tensor,
    upper: Tensor | None,
    sign: Tensor | None,
    permutation: Tensor | None,
    log_scale: Tensor | None,
    shift: Tensor | None,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and log_det, (B,)."""
    y, log_det = x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=torch.float32)
    matrix, log_diag, upper, sign, permutation, log_scale, shift = given = _contiguous(
        matrix, log_diag, upper, sign, permutation, log_scale, shift
    )
    with torch.cuda.device_of(x):
        if x.shape[0] > 0:
            sizes = (x.shape[0], log_diag.shape[0], *x.shape[1:])
            grid = (ceil_div(x.shape[0], _SAMPLES),)
            log_det_kernel[grid](log_diag, log_scale, log_det, *sizes, inverse, _SAMPLES)
        if x.numel() > 0 and inverse:
            _product(x, _unscaled(_inverse(*given[:5]), log_scale).float(), shift, y, negate=True)
        elif x.numel() > 0:
            folded, bias = _fold(*given)
            _product(x, folded, None if shift is None else bias, y)

    return y, log_det


def backward(
    grad_y: Tensor | None,
    grad_log_det: Tensor | None,
    x: Tensor,
    matrix: Tensor,
    log_diag: Tensor,
    upper: Tensor | None,
    sign: Tensor | None,
    permutation: Tensor | None,
    log_scale: Tensor | None,
    shift: Tensor | None,
    inverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of x, matrix, log_diag, upper, log_scale, shift; or empty ones."""
    like = (matrix, log_diag, upper, log_scale, shift)
    grad_x = x.new_empty(x.shape if needs[0] else 0)
    grads = [
        each.new_empty(each.shape) if need else None
        for each, need in zip(like, needs[1:], strict=True)
    ]
    given = _contiguous(matrix, log_diag, upper, sign, permutation, log_scale, shift)
    if x.numel() == 0 or grad_y is None:
        for each in (grad_x, *grads):
            if each is not None:
                each.zero_()
    else:
        with torch.cuda.device_of(x):
            through = _solve_backward if inverse else _product_backward
            through(grad_y, x, given, grad_x if needs[0] else None, grads)

    if permutation is None and grads[1] is not None:
        grads[1].zero_()
    if grad_log_det is not None:
        slope = (-x.shape[2] if inverse else x.shape[2]) * grad_log_det.sum(dtype=torch.float64)
        for each in (grads[1], grads[3]):
            if each is not None:
                each += slope

    return grad_x, *(x.new_empty(0) if each is None else each for each in grads)


def _product_backward(
    grad_y: Tensor,
    x: Tensor,
    given: tuple[Tensor | None, ...],
    grad_x: Tensor | None,
    grads: list[Tensor | None],
) -> None:
    """Write the gradients of `y = A (x + shift)`, A = W e^log_scale."""
    folded, _ = _fold(*given)
    if grad_x is not None:
        _product(grad_y, folded.t(), None, grad_x)
    if all(each is None for each in grads):
        return

    has_factors, channels = given[4] is not None, x.shape[1]
    # Of a weight in full, that is its gradient.
    grad_weight = torch.empty_like(folded) if has_factors or grads[0] is None else grads[0]
    fold_backward_kernel[(ceil_div(channels, _SQUARE),)](
        _sums(grad_y, x), folded, *given[5:], grad_weight, *grads[3:], channels, _SQUARE
    )
    if has_factors:
        _factors_backward(grad_weight, given, grads)


def _solve_backward(
    grad_y: Tensor,
    x: Tensor,
    given: tuple[Tensor | None, ...],
    grad_x: Tensor | None,
    grads: list[Tensor | None],
) -> None:
    """Write the gradients of `A x - shift`, A = e^-log_scale W^-1."""
    inverse = _inverse(*given[:5])
    scaled = _unscaled(inverse, given[5])
    if grad_x is not None:
        _product(grad_y, scaled.float().t(), None, grad_x)
    if all(each is None for each in grads):
        return

    sums = _sums(grad_y, x).double()
    products, plain = sums[:, :-1], sums[:, -1]  # of grad x^T, and of grad
    if grads[3] is not None:
        grads[3].copy_(-(scaled * products).sum(1))
    if grads[4] is not None:
        grads[4].copy_(-plain)
    # d W^-1 = -W^-1 dW W^-1.
    grad_weight = -(inverse.t() @ _unscaled(products, given[5]) @ inverse.t())
    _factors_backward(grad_weight.float(), given, grads)


def _factors_backward(
    grad_weight: Tensor, given: tuple[Tensor | None, ...], grads: list[Tensor | None]
) -> None:
    channels = grad_weight.shape[0]
    grid = (ceil_div(channels, _SQUARE) ** 2,)
    factors_backward_kernel[grid](
        grad_weight, *given[:5], *grads[:3], channels, _SQUARE, num_warps=_FACTORS_WARPS
    )


def _contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else each.contiguous() for each in tensors)


def _fold(
    matrix: Tensor,
    log_diag: Tensor,
    upper: Tensor | None,
    sign: Tensor | None,
    permutation: Tensor | None,
    log_scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return `W e^log_scale`, (C, C), and its product with the shift, (C,)."""
    channels = matrix.shape[0]
    folded, bias = torch.empty_like(matrix), matrix.new_empty(channels)
    fold_kernel[(ceil_div(channels, _SQUARE),)](
        matrix,
        None if permutation is None else log_diag,
        upper,
        sign,
        permutation,
        log_scale,
        shift,
        folded,
        bias,
        channels,
        _SQUARE,
    )
    return folded, bias


def _inverse(
    lower: Tensor, log_diag: Tensor, upper: Tensor, sign: Tensor, permutation: Tensor
) -> Tensor:
    """Return W^-1 in float64, by two solves; each reads its triangle alone."""
    diagonal = sign.double() * log_diag.double().exp()
    upper = upper.double().diagonal_scatter(diagonal)
    columns = torch.zeros_like(upper).scatter_(0, permutation[None], 1.0)  # P^T
    columns = torch.linalg.solve_triangular(
        lower.double(), columns, upper=False, unitriangular=True
    )
    return torch.linalg.solve_triangular(upper, columns, upper=True)


def _unscaled(matrix: Tensor, log_scale: Tensor | None) -> Tensor:
    """Return `e^-log_scale` times a matrix, in float64."""
    return matrix if log_scale is None else matrix * (-log_scale.double()).exp()[:, None]


def _product_tile(channels: int) -> dict[str, int]:
    """Return rows and pixels of a product's tile, and its warps: 32 numbers a thread."""
    block_c = min(32, next_power_of_2(channels))
    block_p = min(512, max(128, 4096 // block_c))
    return {"BLOCK_C": block_c, "BLOCK_P": block_p, "num_warps": max(1, block_c * block_p // 1024)}


def _product(
    x: Tensor, matrix: Tensor, bias: Tensor | None, y: Tensor, *, negate: bool = False
) -> None:
    """Write the product of a matrix of any strides with every pixel, and add the bias."""
    samples, channels, pixels = x.shape
    tile = _product_tile(channels)
    tiles, inside = _tiles(samples, pixels, tile["BLOCK_P"])
    product_kernel[(tiles * ceil_div(channels, tile["BLOCK_C"]),)](
        x, matrix, bias, y, *x.shape, *x.stride(), *matrix.stride(), inside, negate, **tile
    )


def _tiles(samples: int, pixels: int, block: int) -> tuple[int, bool]:
    """Return how many tiles of pixels there are, and whether each lies in one sample."""
    if pixels >= block:
        return samples * ceil_div(pixels, block), True

    return ceil_div(samples * pixels, block), False


def _sums_tile(channels: int) -> dict[str, int]:
    """Return channels and pixels of a tile of the sums; a product of tiles takes 16 at least."""
    return {"BLOCK_C": 16 if channels <= 16 else 32, "BLOCK_P": 32}


def _sums(grad: Tensor, x: Tensor) -> Tensor:
    """Return sums over all pixels, (C, C + 1): of grad x^T, and of grad."""
    samples, channels, pixels = x.shape
    tile = _sums_tile(channels)
    tiles, inside = _tiles(samples, pixels, tile["BLOCK_P"])
    blocks = ceil_div(channels, tile["BLOCK_C"]) ** 2
    pieces = min(tiles, ceil_div(_PROGRAMS, blocks))
    sums = x.new_empty(pieces, channels, channels + 1, dtype=torch.float32)
    sums_kernel[(blocks * pieces,)](
        grad, x, sums, *x.shape, *grad.stride(), *x.stride(), tiles, pieces, inside, **tile
    )
    return sums[0] if pieces == 1 else sums.sum(0)


def _aot_kernels() -> Iterator[AotKernel]:
    def kernel(function: triton.JITFunction, name: str, **constants: Any) -> AotKernel:
        dtype, warps = constants.pop("dtype", "fp32"), constants.pop("num_warps", 4)
        types = dict.fromkeys(("x_ptr", "y_ptr", "grad_ptr"), f"*{dtype}")
        types["permutation_ptr"] = "*i64"
        signature = {
            each: types.get(each, "*fp32" if each.endswith("_ptr") else "i32")
            for each in function.arg_names
            if each not in constants
        }
        config = triton.Config({}, num_warps=warps)
        label = f"{function.__name__}-{name}"
        return AotKernel(label, function, signature, constants, lambda target: [config])

    rows = {"x_stride_p": 1, "grad_stride_p": 1}
    # Wider images take the last tile as often as they need.
    for channels, dtypes in (
        (1, ("fp32",)),
        (12, ("fp32", "bf16", "fp16")),
        (32, ("fp32", "bf16")),
    ):
        for dtype in dtypes:
            name = f"{channels}-channels-{dtype}"
            options = {"dtype": dtype, "INSIDE": True, **rows}
            tile = _product_tile(channels)
            yield kernel(product_kernel, name, **options, NEGATE=False, **tile)
            yield kernel(sums_kernel, name, **options, **_sums_tile(channels))

    small = {"INSIDE": False, "NEGATE": True}
    yield kernel(product_kernel, "small-samples", **small, **_product_tile(48))
    yield kernel(sums_kernel, "small-samples", INSIDE=False, **_sums_tile(48))
    absent = ("log_diag_ptr", "upper_ptr", "sign_ptr", "permutation_ptr")
    yield kernel(fold_kernel, "factors", BLOCK=_SQUARE)
    yield kernel(fold_kernel, "full", BLOCK=_SQUARE, **dict.fromkeys(absent))
    yield kernel(log_det_kernel, "factors", BLOCK=_SAMPLES, INVERSE=False)
    yield kernel(fold_backward_kernel, "normalised", BLOCK=_SQUARE)
    yield kernel(factors_backward_kernel, "factors", BLOCK=_SQUARE, num_warps=_FACTORS_WARPS)


AOT_KERNELS = tuple(_aot_kernels())
