"""Every CUDA C++ file compiles for sm_80 and sm_90a without spills, where nvcc is found."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("csrc/*/cuda.cu"))
NVCC = shutil.which(os.environ.get("NVCC", "nvcc"))

_FUNCTION = re.compile(
    r"Compiling entry function '(?P<function>\w+)' for '(?P<target>\w+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(NVCC is None, reason="nvcc was not found: install the CUDA toolkit"),
    pytest.mark.skipif(
        not (ROOT / "setup.py").is_file(), reason="an installed package has no CUDA sources"
    ),
]


def _setup():
    spec = importlib.util.spec_from_file_location("dgm_fast_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return setup


def _compile(source, folder):
    """Return what ptxas says of each kernel of a source: one match a kernel and target."""
    # ptxas says nothing of what later GPUs compile for themselves, and it is a fifth of the time.
    flags = [flag for flag in _setup().nvcc_flags() if "code=compute" not in flag]
    command = [NVCC, *flags, "-Xptxas=-v", "-c", source, "-o", folder / "cuda.o"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return list(_FUNCTION.finditer(result.stderr))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_cuda_source_compiles_without_spills(source, tmp_path):
    kernels = _compile(source, tmp_path)

    assert {kernel["target"] for kernel in kernels} == {"sm_80", "sm_90a"}
    spilling = [
        f"{kernel['function']} for {kernel['target']}: {kernel['stores']} bytes"
        for kernel in kernels
        if int(kernel["stores"]) or int(kernel["loads"])
    ]
    assert not spilling


def test_spills_are_read_back(tmp_path):
    # 512 values that live across a barrier cannot stay in 255 registers.
    source = tmp_path / "spills.cu"
    source.write_text(
        """
        __global__ void spills(float *data) {
          float values[512];
          #pragma unroll
          for (int i = 0; i < 512; ++i) values[i] = data[i * 1024 + threadIdx.x];
          __syncthreads();
          #pragma unroll
          for (int i = 0; i < 512; ++i) data[i * 1024 + threadIdx.x] = values[511 - i] * values[i];
        }
        """
    )
    kernels = _compile(source, tmp_path)

    assert {kernel["target"] for kernel in kernels} == {"sm_80", "sm_90a"}
    assert all(int(kernel["stores"]) > 0 for kernel in kernels)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("cuda: Optional[str] = '13.0'", True), ("cuda: Optional[str] = None", False), ("", False)],
)
def test_cuda_is_built_where_torch_could_load_it(line, expected, tmp_path, monkeypatch):
    setup = _setup()
    (tmp_path / "version.py").write_text(f"debug = False\n{line}\nhip: Optional[str] = None\n")
    monkeypatch.setattr(setup, "torch_folder", lambda: tmp_path)
    assert setup.torch_has_cuda() is expected
