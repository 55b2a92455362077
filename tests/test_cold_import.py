"""What dgm_fast does in a fresh process that lacks an optional part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgm_fast._core import extension

ROOT = Path(__file__).parents[1]
OPTIONAL = ("triton", "dgm_fast._C", "matplotlib", "sklearn", "tensorboard", "psutil", "zuko")
HEAVY = ("triton", "matplotlib", "sklearn", "tensorboard", "rich", "tyro")

# A hidden module is one that no finder finds, as if it had never been installed.
HIDE = """
import importlib.util, sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name in hidden else self.finder.find_spec(name, *rest)

    def find_distributions(self, context):
        find = getattr(self.finder, "find_distributions", lambda context: ())
        return () if context.name in hidden else find(context)

hidden = {names!r}
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
assert not any(importlib.util.find_spec(name) for name in hidden if "." not in name)
"""

MASKED_LINEAR = """
import torch
import dgm_fast
from dgm_fast import families, layers, ops

x, weight, mask = torch.randn(3, 5), torch.randn(4, 5), torch.rand(4, 5) > 0.5
structure = ops.MaskStructure.from_mask(mask)
"""


def run(code: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    environment.pop("TRITON_INTERPRET", None)
    environment.pop("DGM_FAST_IMPL", None)

    return subprocess.run(
        [sys.executable, "-c", HIDE.format(names=hidden) + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def output(code: str, hidden: tuple[str, ...] = ()) -> str:
    process = run(code, hidden)
    assert process.returncode == 0, process.stderr

    return process.stdout


def test_masked_linear_runs_without_any_optional_part() -> None:
    code = f"""{MASKED_LINEAR}
y = ops.masked_linear(x, weight, None, structure)
torch.testing.assert_close(y, x @ (weight * mask).T)
print("equal")
"""
    assert output(code, OPTIONAL) == "equal\n"


@pytest.mark.parametrize(
    ("impl", "reason"),
    [("cpp", "apt install g++"), ("triton", "pip install 'triton>=3.6'")],
)
def test_an_implementation_asked_for_by_name_never_falls_back(impl: str, reason: str) -> None:
    code = f"{MASKED_LINEAR}\nops.masked_linear(x, weight, None, structure, impl={impl!r})"
    process = run(code, OPTIONAL)

    assert process.returncode == 1
    assert f"ImplementationUnavailable: masked_linear: impl={impl!r} cannot run" in process.stderr
    assert reason in process.stderr


def test_the_environment_variable_never_falls_back() -> None:
    code = f"import os\nos.environ['DGM_FAST_IMPL'] = 'triton'\n{MASKED_LINEAR}"
    process = run(f"{code}\nops.masked_linear(x, weight, None, structure)", OPTIONAL)

    assert process.returncode == 1
    assert "Triton is not installed" in process.stderr


def test_import_leaves_optional_modules_alone() -> None:
    code = f"""
import torch
before = set(sys.modules)
import dgm_fast
from dgm_fast import families, layers, ops
print(sorted((set(sys.modules) - before) & set({HEAVY!r})))
"""
    assert output(code) == "[]\n"


@pytest.mark.parametrize("hidden", [(), OPTIONAL], ids=["all parts", "no optional part"])
def test_env_explains_every_implementation(hidden: tuple[str, ...]) -> None:
    code = """
import json
from dgm_fast import env
from dgm_fast._core.op import all_ops
names = {name: ["reference", *op.implementations] for name, op in all_ops().items()}
print(json.dumps([env.collect(), names]))
"""
    report, names = json.loads(output(code, hidden))

    assert report["ops"].keys() == names.keys()
    assert "masked_linear" in names
    for name, devices in report["ops"].items():
        cpu = devices["cpu"]
        assert sorted([cpu["live"], *cpu["others"]]) == sorted(names[name])
        assert all(cpu["others"].values())


@pytest.mark.parametrize(
    ("impl", "live", "others"),
    [
        ("reference", "reference", {"triton": "Triton is not installed"}),
        ("triton", None, {"reference": "DGM_FAST_IMPL=triton is set", "triton": "not installed"}),
        ("cuda", None, {"reference": "DGM_FAST_IMPL=cuda is set"}),
    ],
)
def test_env_follows_the_environment_variable(impl, live, others) -> None:
    code = f"""
import json, os
os.environ["DGM_FAST_IMPL"] = {impl!r}
from dgm_fast import env
print(json.dumps(env.collect()["ops"]["masked_linear"]["cpu"]))
"""
    choice = json.loads(output(code, ("triton",)))

    assert choice["live"] == live
    assert live not in choice["others"]
    for name, reason in others.items():
        assert reason in choice["others"][name]


def test_env_gives_the_environment_variable_as_the_reason() -> None:
    if extension.cpp_missing is not None:
        pytest.skip(f"nothing is available but the reference: {extension.cpp_missing}")

    code = """
import os, runpy
os.environ["DGM_FAST_IMPL"] = "reference"
sys.argv = ["env"]
runpy.run_module("dgm_fast.env", run_name="__main__")
"""
    assert "available; DGM_FAST_IMPL=reference is set" in output(code)


def test_env_says_what_is_missing_and_how_to_get_it() -> None:
    code = """
import runpy
sys.argv = ["env"]
runpy.run_module("dgm_fast.env", run_name="__main__")
"""
    text = output(code, OPTIONAL)

    assert "pip install 'triton>=3.6'" in text
    assert "apt install g++" in text
    assert "none is visible" in text
