"""Load the compiled extension, and say plainly why it is missing when it is."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch

HOW_TO_BUILD = (
    "install a C++17 compiler (for example `apt install g++ python3-dev`), then run `make setup`, "
    "or `pip install --no-build-isolation .` with torch, ninja and pybind11 installed, in a "
    "checkout of dgm_fast"
)


def _load_cpu() -> tuple[ModuleType | None, str | None]:
    if importlib.util.find_spec("dgm_fast._C") is None:
        return None, f"the C++ extension was not built: {HOW_TO_BUILD}"

    try:
        return importlib.import_module("dgm_fast._C"), None
    except ImportError as error:
        return None, f"the C++ extension does not load ({error}): {HOW_TO_BUILD}"


def _load_cuda() -> str | None:
    # A CPU-only torch lacks the CUDA shims, so the CUDA library is never loaded into it.
    if torch.version.cuda is None:
        return "this torch was built without CUDA"

    library = Path(__file__).parent.parent / f"_cuda{EXTENSION_SUFFIXES[0]}"
    if not library.exists():
        return "the CUDA extension was not built: install nvcc and rebuild with DGM_FAST_BUILD=cuda"

    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        # torch's own message leaves out the symbol or library that is missing.
        return f"the CUDA extension does not load ({error.__cause__ or error})"

    return None


module, cpp_missing = _load_cpu()
cuda_missing = _load_cuda()


def build_info() -> dict[str, str]:
    """Return what the extension was built with and the instruction set it runs on here.

    Returns:
        An empty dict when there is no extension; otherwise `compiler`, `torch_target`,
        `isa_compiled` and `isa_live`.
    """
    return {} if module is None else module.build_info()
