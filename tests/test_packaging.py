"""What a source distribution carries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "csrc", "dgm_fast", "tests")
TOP = (
    "CHANGELOG.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "constraints.txt",
    "pyproject.toml",
    "setup.py",
)
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
left_by_runs = shutil.ignore_patterns("__pycache__", "*.so", "*.o", ".*")


@pytest.fixture
def checkout(tmp_path):
    """A copy, because setuptools writes beside the sources what it finds again the next time."""
    copy = tmp_path / "checkout"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=left_by_runs)
    for name in (*TOP, ".clang-format"):
        shutil.copy(ROOT / name, copy / name)

    return copy


def test_the_source_distribution_holds_every_source(checkout, tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="builds with setuptools >= 77")
    expected = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}

    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr

    (archive,) = tmp_path.glob("dgm_fast-*.tar.gz")
    with tarfile.open(archive) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}

    assert "dgm_fast/py.typed" in expected
    assert not expected - held
