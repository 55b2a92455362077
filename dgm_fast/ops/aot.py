"""Every op's Triton kernels, compiled for GPUs that need not be present.

`python -m dgm_fast.ops.aot` prints what each kernel takes of each GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import triton
from rich.console import Console
from rich.table import Table

from dgm_fast._core.triton_compile import TARGETS, AotKernel, compile_for


def aot_kernels() -> Iterator[tuple[str, AotKernel]]:
    """Yield the name of each op and the kernels it lists."""
    for op in pkgutil.iter_modules([str(Path(__file__).parent)]):
        name = f"{__package__}.{op.name}.kernels"
        if op.ispkg and importlib.util.find_spec(name) is not None:
            for kernel in importlib.import_module(name).AOT_KERNELS:
                yield op.name, kernel


def _table() -> Table:
    table = Table("kernel", "config", "target", "registers", "spilled bytes", "shared KiB")

    for op, kernel in aot_kernels():
        for name, target in TARGETS.items():
            for config in kernel.configs(target.gpu):
                usage = compile_for(target, kernel, config)
                shared = f"{usage.shared_bytes / 1024:.0f}"
                row = (str(usage.registers), str(usage.spilled_bytes), shared)
                table.add_row(f"{op} {kernel.name}", _label(config), name, *row)

    return table


def _label(config: triton.Config) -> str:
    blocks = " x ".join(f"{value} {name[-1]}" for name, value in config.kwargs.items())
    return ", ".join(
        filter(None, (blocks, f"{config.num_warps} warps, {config.num_stages} stages"))
    )


if __name__ == "__main__":
    Console(width=140).print(_table())
