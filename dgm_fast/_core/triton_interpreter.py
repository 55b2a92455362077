"""Give Triton's interpreter the bfloat16 of a GPU, so that its results are a GPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def repair_bfloat16() -> None:
    """Round to the nearest bfloat16 and multiply its values.

    Triton 3.6 and 3.7 keep a bfloat16 as its 16 bits in an integer array; casts to it truncate, and
    `tl.dot` multiplies the bits.
    """
    if InterpreterBuilder.cast_impl is not _cast:
        InterpreterBuilder.cast_impl = _cast
        InterpreterBuilder.create_dot = _dot


_truncating_cast = InterpreterBuilder.cast_impl
_bitwise_dot = InterpreterBuilder.create_dot


def _cast(builder: InterpreterBuilder, source: TensorHandle, dtype: tl.dtype) -> TensorHandle:
    if source.dtype.scalar != tl.float32 or dtype.scalar != tl.bfloat16:
        return _truncating_cast(builder, source, dtype)

    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
    return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)


def _dot(builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
    if a.dtype.scalar == tl.bfloat16:
        a, b = (_truncating_cast(builder, each, tl.float32) for each in (a, b))

    return _bitwise_dot(builder, a, b, *rest)
