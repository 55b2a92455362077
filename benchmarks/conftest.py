"""Nothing is timed on a forced implementation, nor on fewer threads than are recorded."""

from __future__ import annotations

import pytest

from benchmarks.run import prepare_process


def pytest_configure(config: pytest.Config) -> None:
    prepare_process()
