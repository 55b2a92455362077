"""The commands that train flush subnormal numbers, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

FLUSHES = """
import sys
import torch

def flushes():
    return (torch.tensor([1e-310], dtype=torch.float64) * 2).item() == 0

assert not flushes()
try:
    {command}
except SystemExit:
    pass
print(flushes(), torch.set_flush_denormal(True))
"""


@pytest.mark.parametrize(
    "command",
    [
        "from dgm_fast import cli; cli.main(['train', 'made', '--data', 'none'])",
        "from dgm_fast.demo.__main__ import main; sys.argv[1:] = ['--help']; main()",
    ],
    ids=["train", "demo"],
)
def test_training_commands_flush_subnormals(command):
    code = FLUSHES.format(command=command)
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    flushed, supported = process.stdout.split()[-2:]
    if supported == "False":
        pytest.skip("this processor cannot flush subnormal numbers")
    assert flushed == "True"


def test_other_tests_keep_their_subnormals():
    assert (torch.tensor([1e-310], dtype=torch.float64) * 2).item() > 0
