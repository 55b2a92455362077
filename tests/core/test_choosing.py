"""The choice among an op's implementations: per call, per block, per process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from dgm_fast import ImplementationUnavailable, ops, use_impl
from dgm_fast._core.implementation import NAMES, Implementation, requested
from dgm_fast._core.op import Op

CPU = torch.device("cpu")


@pytest.fixture
def automatic(monkeypatch):
    """Start from `auto`, whatever DGM_FAST_IMPL says."""
    monkeypatch.setattr("dgm_fast._core.implementation._default", "auto")


def an_op(*implementations):
    return Op("an_op_of_the_tests", {}, implementations)


def implementation(name, *, missing=None, devices=("cpu",), dtypes=(torch.float32,)):
    return Implementation(name, devices, dtypes, missing)


def test_auto_takes_the_first_that_can_run(automatic):
    op = an_op(implementation("cpp", missing="because"), implementation("cuda"))
    assert op.choose("auto", CPU, torch.float32) == "cuda"

    op = an_op(implementation("cpp"), implementation("cuda"))
    assert op.choose("auto", CPU, torch.float32) == "cpp"


def test_auto_falls_back_to_the_reference(automatic):
    op = an_op(implementation("cpp"), implementation("cuda", devices=("cuda",)))

    assert op.choose("auto", CPU, torch.float64) == "reference"
    assert op.choose("auto", torch.device("meta"), torch.float32) == "reference"
    assert an_op(implementation("cpp", missing="no")).choose("auto", CPU, torch.float32) == (
        "reference"
    )


def test_auto_never_takes_an_interpreted_kernel(automatic):
    op = an_op(implementation("triton", devices=("cpu", "cuda")))

    assert op.choose("auto", CPU, torch.float32) == "reference"
    assert op.choose("triton", CPU, torch.float32) == "triton"
    assert op.choose("auto", torch.device("cuda"), torch.float32) == "triton"


@pytest.mark.parametrize(
    ("have", "device", "dtype", "reason"),
    [
        ({"missing": "no compiler"}, CPU, torch.float32, "no compiler"),
        ({"devices": ("cuda",)}, CPU, torch.float32, "runs on cuda, not on cpu"),
        ({}, CPU, torch.float64, "no torch.float64 kernel"),
    ],
    ids=["missing", "device", "dtype"],
)
def test_a_named_choice_that_cannot_run_says_why(have, device, dtype, reason):
    op = an_op(implementation("cpp", **have))

    with pytest.raises(ImplementationUnavailable, match=f"an_op_of_the_tests.*cpp.*{reason}"):
        op.choose("cpp", device, dtype)
    with use_impl("cpp"), pytest.raises(ImplementationUnavailable, match=reason):
        op.choose("auto", device, dtype)


def test_a_named_choice_that_the_op_has_not_got_lists_those_it_has():
    op = an_op(implementation("cpp"), implementation("triton"))

    with pytest.raises(ImplementationUnavailable, match=r"'cuda'.*reference, cpp, triton"):
        op.choose("cuda", CPU, torch.float32)


@pytest.mark.parametrize("name", ["", "fast", "CPP", "eager"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=f"impl must be one of auto, reference.*got '{name}'"):
        ops.philox_normal((2,), impl=name)

    block = use_impl(name)
    with pytest.raises(ValueError, match=f"name must be one of auto, .*got '{name}'"), block:
        pass


def test_use_impl_nests_and_restores(automatic):
    with use_impl("reference"):
        assert requested("auto") == "reference"
        with use_impl("cpp"):
            assert requested("auto") == "cpp"
            with use_impl("auto"):
                assert requested("auto") == "auto"

        assert requested("auto") == "reference"

    assert requested("auto") == "auto"


def test_use_impl_restores_after_an_exception_and_after_a_refusal(automatic):
    with pytest.raises(KeyError), use_impl("reference"):
        raise KeyError

    assert requested("auto") == "auto"

    with pytest.raises(ValueError, match="nonsense"), use_impl("nonsense"):
        pass

    assert requested("auto") == "auto"


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_calls_own_choice_wins(name):
    with use_impl("reference" if name != "reference" else "cpp"):
        assert requested(name) == name


def in_a_fresh_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


ASK = "from dgm_fast._core.implementation import requested; print(requested('auto'))"


def test_the_environment_chooses_for_a_process():
    result = in_a_fresh_process(ASK, DGM_FAST_IMPL="reference")
    assert result.stdout.strip() == "reference", result.stderr


def test_the_environment_is_checked():
    result = in_a_fresh_process(ASK, DGM_FAST_IMPL="fastest")

    assert result.returncode != 0
    assert "DGM_FAST_IMPL must be one of auto, reference" in result.stderr
    assert "'fastest'" in result.stderr


def test_a_compiled_call_follows_use_impl(automatic):
    op = an_op(implementation("cpp"))

    def chosen(x):
        return x + (1 if op.choose("auto", CPU, torch.float32) == "reference" else 2)

    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(chosen, fullgraph=True, backend=backend)
    zero = torch.zeros(())

    assert compiled(zero) == 2
    with use_impl("reference"):
        assert compiled(zero) == 1
        assert compiled(zero) == 1

    assert compiled(zero) == 2
    assert backend.frame_count == 2
