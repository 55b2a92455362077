"""GPU samplers on threads of this CPU: programs, and how they are called."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import ROOT

COMPILER = shutil.which("g++")

# Marks of a module whose tests build a program.
needs_compiler = [
    pytest.mark.skipif(COMPILER is None, reason="g++ was not found: apt install g++"),
    pytest.mark.skipif(
        not (ROOT / "csrc").is_dir(), reason="an installed package has no CUDA sources"
    ),
]


def build(source, folder, *flags):
    """Compile a source beside this file and return where the program is."""
    program = folder / Path(source).stem
    # To compile it takes longer than to run it.
    command = [COMPILER, "-std=c++17", "-O0", "-march=native", "-pthread", f"-I{ROOT / 'csrc'}"]
    command += [*flags, Path(__file__).with_name(source), "-o", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    return program


def build_watched(source, folder, run):
    """Compile it under ThreadSanitizer; `run(program)` shows whether that can run here."""
    try:
        program = build(source, folder, "-fsanitize=thread", "-g")
    except AssertionError as error:
        if "-ltsan" in str(error) or "libtsan" in str(error):
            pytest.skip("the compiler has no ThreadSanitizer: apt install libtsan2")
        raise
    try:
        run(program)
    except RuntimeError as error:
        if "unexpected memory mapping" in str(error):
            pytest.skip("ThreadSanitizer cannot run here: sysctl vm.mmap_rnd_bits=28")
    return program


def run(program, arrays):
    """Give a program arrays; return those it writes, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder, "given"), Path(folder, "got")
        given.write_bytes(b"".join(map(_with_its_length, arrays)))
        command = [program, given, got]
        result = subprocess.run(command, capture_output=True, text=True, timeout=250)
        if result.returncode:
            raise RuntimeError(result.stderr)
        return list(_arrays_of(got.read_bytes()))


def noise_arrays(noise, seed, of_seed):
    """Return what a program is given of an operator's noise, or of its seed."""
    if noise is not None:
        return [noise.float(), [], [0, 0, *noise.shape[1:]]]
    none = torch.zeros(0)
    return [none, [], [0] * 4] if seed is None else [none, seed.reshape(1), [*of_seed, 0]]


def _with_its_length(values):
    array = values.contiguous().numpy() if isinstance(values, torch.Tensor) else np.int64(values)
    return np.int64(array.nbytes).tobytes() + array.tobytes()


def _arrays_of(data):
    while data:
        length = int(np.frombuffer(data[:8], np.int64)[0])
        yield np.frombuffer(data[8 : 8 + length], np.uint8)
        data = data[8 + length :]
