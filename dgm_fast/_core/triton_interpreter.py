"""Give Triton's interpreter the bfloat16 of a GPU, and spare it work that it does over and over."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

# What is patched now; a kernel's end restores it.
_patched: set[frozenset[ModuleType]] = set()
# Attributes of a type by its elements' and sizes, and those of a tensor by its sizes.
_block_types: dict[tuple[Any, ...], dict[str, Any]] = {}
_shapes: dict[tuple[int, ...], dict[str, Any]] = {}


def patch_once() -> None:
    """Put the interpreter's own functions into `triton.language` once a kernel.

    Triton 3.7 does so again for every device function that the kernel calls, which takes several
    times as long as a call on a tile of 2048.
    """
    interpreter._patch_lang = _patch_lang


def share_types() -> None:
    """Work out the type of a block, and the shape of a tensor, once for all that are alike.

    Each result of each operation has its own, which takes a quarter of the time of a small tile.
    """
    tl.core.block_type.__init__ = _init_block_type
    tl.core.tensor.__init__ = _init_tensor


def repair_bfloat16() -> None:
    """Round to the nearest bfloat16 and multiply its values; give a tile's rows one order of sums.

    Triton 3.6 and 3.7 keep a bfloat16 as its 16 bits in an integer array; casts to it truncate, and
    `tl.dot` multiplies the bits. Where numpy adds float32 products, a row's bits depend, on some
    processors, on its place in the tile, which no GPU's do: so they are added in float64.
    """
    if InterpreterBuilder.cast_impl is not _cast:
        InterpreterBuilder.cast_impl = _cast
        InterpreterBuilder.create_dot = _dot


_patch_always = interpreter._patch_lang
_init_any_block_type = tl.core.block_type.__init__
_init_any_tensor = tl.core.tensor.__init__
_truncating_cast = InterpreterBuilder.cast_impl
_bitwise_dot = InterpreterBuilder.create_dot


@functools.cache
def _languages(function: Callable[..., Any]) -> frozenset[ModuleType]:
    modules = filter(inspect.ismodule, function.__globals__.values())
    return frozenset(each for each in modules if each in (tl, tl.core))


def _patch_lang(function: Callable[..., Any]) -> Any:
    """Return what restores the language, which a kernel uses and a device function ignores."""
    languages = _languages(function)
    if languages in _patched:
        return None

    scope = _patch_always(function)
    # The kernel's own comes first.
    if not _patched:
        restore = scope.restore
        scope.restore = lambda: (_patched.clear(), restore())

    _patched.add(languages)
    return scope


def _init_block_type(self: tl.block_type, element_ty: tl.dtype, shape: Sequence[Any]) -> None:
    if element_ty.is_ptr():
        _init_any_block_type(self, element_ty, shape)
        return

    key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
    if key not in _block_types:
        _init_any_block_type(self, element_ty, shape)
        _block_types[key] = dict(vars(self))

    vars(self).update(_block_types[key])


def _init_tensor(self: tl.tensor, handle: TensorHandle, type: tl.dtype) -> None:
    shape = tuple(type.shape) if type.is_block() else ()
    if shape not in _shapes:
        _init_any_tensor(self, handle, type)
        _shapes[shape] = {"numel": self.numel, "shape": self.shape}

    vars(self).update(handle=handle, type=type, dtype=type.scalar, **_shapes[shape])


def _cast(builder: InterpreterBuilder, source: TensorHandle, dtype: tl.dtype) -> TensorHandle:
    if source.dtype.scalar != tl.float32 or dtype.scalar != tl.bfloat16:
        return _truncating_cast(builder, source, dtype)

    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
    return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)


def _dot(
    builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, sums: TensorHandle, *rest: Any
) -> TensorHandle:
    if a.dtype.scalar == tl.bfloat16:
        a, b = (_truncating_cast(builder, each, tl.float32) for each in (a, b))
    if sums.data.dtype != np.float32:
        return _bitwise_dot(builder, a, b, sums, *rest)

    left, right = (each.data.astype(np.float64) for each in (a, b))
    products = np.matmul(left, right).astype(np.float32)
    return TensorHandle(products + sums.data, sums.dtype.scalar)
