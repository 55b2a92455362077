from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import load_file

from dgm_fast.training import train

HERE = Path(__file__).parent


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo backend")
def test_two_processes_equal_one_on_the_same_batches(make_model, dataset, config, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(HERE / "ddp_worker.py"), str(tmp_path / "two")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stdout.splitlines()]
    assert len(lines) == 2
    assert lines[0] == lines[1]

    one = train(
        make_model(0.0),
        dataset,
        replace(config, epochs=2),
        tmp_path / "one",
        console=Console(quiet=True),
    )
    assert float(lines[0][0]) == pytest.approx(one.best_validation_nats, rel=1e-5)
    a, b = (load_file(tmp_path / name / "training.safetensors") for name in ("one", "two"))
    assert "rng.1.cpu" in b
    names = [key for key in a if not key.startswith("rng.")]
    assert len(names) > 12
    for name in names:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
