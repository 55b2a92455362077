"""Input checks whose errors name the argument and show what came; none of them syncs a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WIDE_UNSIGNED = torch.uint16, torch.uint32, torch.uint64


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")


def check_rows(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a tensor whose rows are all of one length."""
    check_tensor(name, value)
    if value.is_nested:
        raise TypeError(f"{name} must have rows of one length; got a nested tensor")


def as_integers(name: str, value: object) -> Tensor:
    """Return a tensor of any integer dtype as int64; raise TypeError of anything else."""
    check_rows(name, value)
    if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
        raise TypeError(f"{name} must have an integer dtype; got {value.dtype}")
    return value.long()


def check_floating(name: str, value: Tensor) -> None:
    """Raise TypeError unless `value` is a floating-point tensor."""
    check_tensor(name, value)
    if not value.dtype.is_floating_point:
        raise TypeError(f"{name} must be a floating-point tensor; got dtype {value.dtype}")


def check_shape(name: str, value: Tensor, expected: Sequence[int], meaning: str) -> None:
    """Raise ValueError unless `value` has the expected shape; `meaning` names its dims."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {meaning} = {tuple(expected)}; got {tuple(value.shape)}"
        )


def is_on(value: Tensor, device: torch.device) -> bool:
    """Whether a tensor is on a device; `cuda` without an index means any."""
    return value.device.type == device.type and device.index in (None, value.device.index)


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless two tensors share their device."""
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}; got {value.device} and {other.device}"
        )


def may_look_at(value: Tensor) -> bool:
    """Whether a check may read values: not on a GPU, where it waits, nor while tracing."""
    return (
        value.device.type == "cpu"
        and value.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def check_integers(name: str, values: Tensor, high: int) -> None:
    """Raise ValueError unless all values are integers 0 .. high, where looking costs little."""
    if not may_look_at(values):
        return

    # Of wide unsigned integers, torch has no minimum.
    seen = values.long() if values.dtype in WIDE_UNSIGNED else values
    low_seen, high_seen = (value.item() for value in seen.aminmax())
    if not (low_seen >= 0 and high_seen <= high):
        raise ValueError(f"{name} must hold values in 0 .. {high}; got {low_seen} to {high_seen}")
    if values.is_floating_point() and bool((values != values.round()).any()):
        raise ValueError(f"{name} must hold integers (as any dtype); got fractions")


def check_labels(context: Tensor, classes: int, batch: int) -> None:
    """Raise unless `context` holds a label 0 .. classes - 1 of each sample of a batch."""
    if context.dtype != torch.int64:
        raise TypeError(f"context must be int64 labels; got {context.dtype}")
    if context.shape != (batch,):
        raise ValueError(
            f"context must have shape (B,) = ({batch},), a label a sample; "
            f"got {tuple(context.shape)}"
        )

    check_integers("context", context, classes - 1)


def some_labels(context: Tensor | None, classes: int, batch: int) -> Tensor | None:
    """Return the labels of a model of so many classes, or None of one of none; raise otherwise."""
    if bool(classes) != (context is not None):
        must = f"hold labels of {classes} classes" if classes else "be None without classes"
        got = "None" if context is None else f"shape {tuple(context.shape)}"
        raise ValueError(f"context must {must}; got {got}")
    if context is not None:
        check_labels(context, classes, batch)
    return context


def check_autocast_dtype(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise TypeError unless two tensors share their dtype, once autocast has done its work."""
    dtypes = (autocast_dtype(each.device, each.dtype) for each in (value, other))
    if len(set(dtypes)) > 1:
        raise TypeError(
            f"{name} must have the dtype of {other_name}; got {value.dtype} and {other.dtype}"
        )


def check_operand(
    name: str, value: Tensor, expected: Sequence[int], meaning: str, other_name: str, other: Tensor
) -> None:
    """Raise unless `value` has the expected shape, and the device and dtype of another tensor."""
    check_floating(name, value)
    check_shape(name, value, expected, meaning)
    check_device(name, value, other_name, other)
    check_autocast_dtype(name, value, other_name, other)


def as_autocast(tensor: Tensor | None) -> Tensor | None:
    """Return an operand of a product as the active autocast casts it; None stays."""
    return None if tensor is None else tensor.to(autocast_dtype(tensor.device, tensor.dtype))


def autocast_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype a matrix product of `dtype` inputs runs in under the active autocast."""
    if dtype is not torch.float64 and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)

    return dtype
