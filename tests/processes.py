"""Other processes of tests: two of distributed training, or one on another instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_two(worker: Path, folder: Path) -> None:
    """Run a script as `worker folder rank` for ranks 0 and 1, and fail with their errors."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(folder), str(rank)],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors


def run_on_isa(code: str, isa: str, threads: int = 1) -> str:
    """Run Python code whose kernels use at most an instruction set; return what it prints."""
    environment = os.environ | {"DGM_FAST_ISA": isa, "OMP_NUM_THREADS": str(threads)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
