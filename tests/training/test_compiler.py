from __future__ import annotations

import sys
import sysconfig

import pytest
import torch

from dgm_fast.training.compiler import compiler_missing

CPU = torch.device("cpu")


@pytest.fixture
def headers(tmp_path, monkeypatch):
    """A folder for Python.h, on a machine that has a compiler: any program that exists."""
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_a_compiler_and_the_headers_are_enough(headers):
    (headers / "Python.h").touch()
    assert compiler_missing(CPU) is None


def test_missing_headers_are_named(headers):
    assert "python3-dev" in compiler_missing(CPU)
    assert str(headers / "Python.h") in compiler_missing(CPU)


def test_a_missing_compiler_is_named(headers, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "no C++ compiler (no-such-compiler)" in compiler_missing(CPU)


def test_a_gpu_needs_neither(headers, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiler_missing(torch.device("cuda")) is None
