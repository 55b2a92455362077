"""`torch.compile` as the cached loops of the benchmark have it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import list_mode_options

from dgm_fast._core.implementation import ImplementationUnavailable

__all__ = ["Compiler", "compiler_of"]

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


def compiler_of(mode: str | None, device: torch.device) -> Compiler:
    """Return what compiles functions that loop inside, each for inputs of the same shapes.

    Called with others it is wrong: checking each time that nothing has changed would take longer
    than a short call. On a CPU what calls the kernels is C++, too, because most of a loop of small
    ones is that.

    Raises:
        ImplementationUnavailable: torch cannot tell such functions apart.
    """
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        raise ImplementationUnavailable(
            f"torch {torch.__version__} has no torch.compile(isolate_recompiles=)"
        )
    options: dict[str, Any] = dict(list_mode_options(mode or "default"))
    options["guard_filter_fn"] = torch.compiler.skip_all_guards_unsafe
    if device.type == "cpu":
        options["cpp_wrapper"] = True
    # Without checks, nothing else tells two functions of the same lines apart.
    return lambda function: torch.compile(
        function, dynamic=False, fullgraph=True, options=options, isolate_recompiles=True
    )
