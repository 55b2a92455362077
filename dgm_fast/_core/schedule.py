"""Noise schedules as tables: x_t = alpha[t] x0 + sigma[t] eps, with a step t per sample.

A step outside the tables is refused where looking costs nothing, which is on a CPU outside
`torch.compile`; elsewhere its sample comes out as NaN, and nothing outside a table is read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_shape, check_tensor, may_look_at

# What a network is trained to predict; kernels know each by its place here.
TARGETS = ("noise", "velocity", "x0")


def check_target(target: object) -> None:
    """Raise ValueError unless `target` names a parametrization."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")


def check_tables(alpha: Tensor, sigma: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless alpha and sigma are tables (T,) on the device of `other`."""
    for name, table in (("alpha", alpha), ("sigma", sigma)):
        check_table(name, table, other_name, other)

    check_shape("sigma", sigma, alpha.shape, "(T,) of alpha")


def check_table(name: str, table: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless `table` has entries on the device of `other`, exact enough and constant."""
    check_tensor(name, table)
    if table.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} must be float32 or float64, because the first steps' noise is lost in less; "
            f"got {table.dtype}"
        )
    if table.ndim != 1 or table.shape[0] == 0:
        raise ValueError(f"{name} must have shape (T,) with T > 0; got {tuple(table.shape)}")
    if table.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} must not require grad: no gradient reaches a schedule; got True")

    check_device(name, table, other_name, other)


def check_samples(name: str, samples: object) -> None:
    """Raise unless `samples` are (B, *E) numbers or 8-bit images."""
    check_tensor(name, samples)
    if not (samples.is_floating_point() or samples.dtype is torch.uint8):
        raise TypeError(f"{name} must be floating-point or uint8; got dtype {samples.dtype}")
    if samples.ndim == 0:
        raise ValueError(f"{name} must have shape (B, *E); got {tuple(samples.shape)}")


def check_steps(
    name: str, steps: Tensor, lowest: int, count: int, other_name: str, other: Tensor
) -> None:
    """Raise unless `steps` holds an integer in [lowest, count) for each sample of `other`."""
    check_tensor(name, steps)
    if steps.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be an int64 or int32 tensor; got {steps.dtype}")

    check_shape(name, steps, other.shape[:1], "(B,)")
    check_device(name, steps, other_name, other)
    if not may_look_at(steps):
        return

    least, most = (int(each) for each in torch.aminmax(steps))
    if least < lowest or most >= count:
        wrong = least if least < lowest else most
        raise ValueError(f"{name} must be in [{lowest}, {count}); got {wrong}")


def steps_of(
    name: str, steps: int | Tensor, lowest: int, count: int, other_name: str, other: Tensor
) -> Tensor:
    """Return an int or 0-dim tensor as the step of each sample of `other`, and check it."""
    if isinstance(steps, int) and not isinstance(steps, bool):
        if not lowest <= steps < count:
            raise ValueError(f"{name} must be in [{lowest}, {count}); got {steps}")
        return torch.full((), steps, dtype=torch.int64, device=other.device).expand(other.shape[0])

    if not isinstance(steps, Tensor):
        raise TypeError(f"{name} must be an int or a tensor; got {type(steps).__name__}")

    steps = steps.expand(other.shape[0]) if steps.ndim == 0 else steps
    check_steps(name, steps, lowest, count, other_name, other)
    return steps


def look_up(table: Tensor, steps: Tensor) -> Tensor:
    """Return a table's entries, NaN for a step outside of it."""
    last = table.shape[0] - 1
    inside = (steps >= 0) & (steps <= last)
    return torch.where(inside, table.index_select(0, steps.clamp(0, last).long()), torch.nan)


def per_sample(values: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Give (B,) values the dims of `like` (B, *E), so that they broadcast over a sample."""
    return values.to(dtype).view(-1, *(1 for _ in like.shape[1:]))


def as_values(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images as numbers: uint8's 0 ... 255 become -1 ... 1, the rest stays as it is."""
    # The difference is exact, so that -1 and 1 are met exactly.
    return (x.to(dtype) - 127.5) / 127.5 if x.dtype is torch.uint8 else x.to(dtype)


def cosine_tables(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma that follow a quarter of a circle, for the cases of ops."""
    angle = torch.arange(1, steps + 1, dtype=torch.float64) * (math.pi / 2 / (steps + 1))
    return angle.cos().float().to(device), angle.sin().float().to(device)
