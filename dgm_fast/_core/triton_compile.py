"""Compile a Triton kernel ahead of time, for GPUs that need not be present."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from dgm_fast._core.implementation import interpreting
from dgm_fast._core.triton_interpreter import patch_once, repair_bfloat16, share_types

# Here, because every module of kernels imports this one before it defines any.
if interpreting():
    repair_bfloat16()
    patch_once()
    share_types()


# A launch option of backward kernels, which are compiled for each set of gradients asked for. Where
# the compiler fuses products with sums as it likes, a gradient's bits depend on what is beside it.
UNFUSED = {"enable_fp_fusion": False}


def programs(on_gpu: int) -> int:
    """Return among how many programs to cut sums: the interpreter runs them one after another."""
    return min(on_gpu, 6) if interpreting() else on_gpu


@dataclass(frozen=True)
class Target:
    """A GPU to compile for, and the shared memory one of its programs can have."""

    gpu: GPUTarget
    shared_bytes: int


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 * 1024),
}


@dataclass(frozen=True)
class AotKernel:
    """One kernel as its launcher calls it; a `kernels.py` lists its own in `AOT_KERNELS`.

    Attributes:
        name: unique within the op.
        function: the jitted function.
        signature: Triton's names of the run-time arguments' types, as in `"*bf16"` and `"i32"`; for
            a tuple a tuple of them, in which a compile-time constant stands as itself.
        constexprs: values of the compile-time arguments, strides of 1 and absent tensors among
            them; the configs give the rest.
        configs: `target -> configs` that its tuner chooses from on that GPU.
        aligned: whether integers are multiples of 16, as strides are where loads are to be wide;
            pointers always are.
        options: of the launch, beside those of the configs.
    """

    name: str
    function: triton.JITFunction
    signature: Mapping[str, str | tuple[Any, ...]]
    constexprs: Mapping[str, Any]
    configs: Callable[[GPUTarget], Sequence[triton.Config]]
    aligned: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def signature_of(
    function: triton.JITFunction,
    dtype: str,
    given: Mapping[str, Any],
    constants: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a kernel's signature: what is `given`, else tensors of a dtype and narrow integers.

    Arguments:
        function: the kernel, of which a tensor's name ends in `_ptr` and a tile's begins with
            `BLOCK`.
        dtype: of the tensors, in Triton's name.
        given: types of other arguments.
        constants: arguments that have no type.
    """
    return {
        name: given.get(name, f"*{dtype}" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
        if name not in constants and not name.startswith("BLOCK")
    }


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes: registers a thread, spilled bytes a thread, shared bytes."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


def compile_for(target: Target, kernel: AotKernel, config: triton.Config) -> Usage:
    """Compile one configuration of a kernel and read back what it takes."""
    names = kernel.function.arg_names
    constexprs = {**kernel.constexprs, **config.kwargs}
    constexprs = {(names.index(name),): each for name, each in constexprs.items() if name in names}
    signature = {name: kernel.signature.get(name, "constexpr") for name in names}
    leaves = [each for i, name in enumerate(names) for each in _leaves(signature[name], (i,))]
    constexprs |= {place: value for place, value in leaves if not isinstance(value, str)}
    aligned = {
        place: [["tt.divisibility", 16]]
        for place, value in leaves
        if isinstance(value, str) and value.startswith(("*", "i") if kernel.aligned else "*")
    }
    signature = {name: _types(each) for name, each in signature.items()}

    options = {key: v for key, v in config.all_kwargs().items() if key not in config.kwargs}
    options |= kernel.options
    source = ASTSource(kernel.function, signature, constexprs, aligned)
    compiled = triton.compile(source, target=target.gpu, options=options)
    registers, spilled_bytes = (_amd_usage if "amdgcn" in compiled.asm else _nvidia_usage)(compiled)
    return Usage(registers, spilled_bytes, compiled.metadata.shared)


def _leaves(argument: Any, place: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield where the types and constants of an argument are, and what they are."""
    if not isinstance(argument, tuple):
        yield place, argument
        return

    for i, each in enumerate(argument):
        yield from _leaves(each, (*place, i))


def _types(argument: Any) -> Any:
    if isinstance(argument, tuple):
        # A named tuple stays one: kernels read it by its names.
        return type(argument)(*map(_types, argument))

    return argument if isinstance(argument, str) else "constexpr"


def _nvidia_usage(compiled: CompiledKernel) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage = {key: int(v) for key, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", output)}
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def _amd_usage(compiled: CompiledKernel) -> tuple[int, int]:
    metadata = compiled.asm["amdgcn"]

    def read(key: str) -> int:
        return int(re.search(rf"\.{key}:\s+(\d+)", metadata)[1])

    spilled_bytes = 4 * read("vgpr_spill_count") + read("private_segment_fixed_size")
    return read("vgpr_count"), spilled_bytes
