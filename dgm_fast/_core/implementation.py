"""Implementations of an op and the choice among them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dgm_fast._core import extension

NAMES = ("auto", "reference", "cpp", "triton", "cuda")


class ImplementationUnavailable(RuntimeError):
    """Raised when an implementation asked for by name cannot run the call; says why."""


@dataclass(frozen=True)
class Implementation:
    """One way to run an op.

    Attributes:
        name: `"cpp"`, `"triton"` or `"cuda"`.
        device_types: where it runs.
        dtypes: what it computes; anything else is refused.
        missing: why it cannot run in this process at all, or None.
        launchers: module whose functions, named after the directions, are the launchers;
            None when the compiled extension registers them.
        capability: of the GPUs it runs on, or None for any.
    """

    name: str
    device_types: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    missing: str | None
    launchers: str | None = None
    capability: tuple[int, int] | None = None

    def unavailable_reason(
        self, device: torch.device, dtype: torch.dtype | None = None
    ) -> str | None:
        """Return why a call on this device and dtype cannot be run, or None when it can."""
        if self.missing is not None:
            return self.missing

        if device.type not in self.device_types:
            return f"it runs on {' or '.join(self.device_types)}, not on {device.type}"

        if self.capability is not None and not _has(self.capability, device.index):
            version = ".".join(map(str, self.capability))
            return f"it needs a GPU of compute capability {version}"

        if dtype is not None and dtype not in self.dtypes:
            return f"it has no {dtype} kernel"

        return None


@torch.compiler.assume_constant_result
def _has(capability: tuple[int, int], index: int | None) -> bool:
    return torch.cuda.get_device_capability(index) == capability


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: `pip install 'triton>=3.6'` (Linux)"

    if not torch.cuda.is_available() and not interpreting():
        return "no GPU is visible (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"

    return None


def cpp(*dtypes: torch.dtype) -> Implementation:
    """C++ on the CPU, registered by the compiled extension."""
    return Implementation("cpp", ("cpu",), dtypes, extension.cpp_missing)


def cuda(*dtypes: torch.dtype) -> Implementation:
    """CUDA C++ on an NVIDIA GPU, registered by the compiled extension."""
    return Implementation("cuda", ("cuda",), dtypes, extension.cuda_missing)


def hopper(launchers: str, *dtypes: torch.dtype) -> Implementation:
    """CUDA C++ for Hopper beside Triton kernels; `launchers` as of `triton`."""
    missing = extension.cuda_missing or _triton_missing()
    return Implementation("cuda", ("cuda",), dtypes, missing, launchers, capability=(9, 0))


def triton(launchers: str, *dtypes: torch.dtype) -> Implementation:
    """Triton kernels; `launchers` names the module, imported at the first launch."""
    devices = ("cuda", "cpu") if interpreting() else ("cuda",)
    return Implementation("triton", devices, dtypes, _triton_missing(), launchers)


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source} must be one of {', '.join(NAMES)}; got {name!r}")

    return name


# A plain global rather than a context variable: torch.compile guards on it and recompiles.
_default = _checked(os.environ.get("DGM_FAST_IMPL", "auto"), "DGM_FAST_IMPL")


@contextmanager
def use_impl(name: str) -> Iterator[None]:
    """Make `name` the implementation of every op called inside the block.

    An `impl=` given to a call still wins. The choice is process-wide while the block runs.

    Arguments:
        name: `"auto"`, `"reference"`, `"cpp"`, `"triton"` or `"cuda"`.

    Raises:
        ValueError: `name` is none of these.

    Example:
        >>> import dgm_fast
        >>> with dgm_fast.use_impl("reference"):
        ...     pass
    """
    global _default
    previous, _default = _default, _checked(name, "name")

    try:
        yield
    finally:
        _default = previous


def requested(impl: str) -> str:
    """Return the implementation a call asks for: its own `impl`, else the process's choice."""
    return _default if impl == "auto" else _checked(impl, "impl")
